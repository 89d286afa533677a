"""Schedulers to swap into diffusers' token pipelines, and a pipeline for other masked models.

Importing this module also lets `DiffusionPipeline.from_pretrained(folder)` find our schedulers: it
looks for the module named in model_index.json among the imported ones, and expects `SchedulerMixin`
in that module, too.
"""

from diffusers import ConfigMixin, SchedulerMixin

from mdm_schedules.integrations.diffusers.blocks import (
    BlockMaskedDiffusionScheduler,
    BlockMaskedDiffusionSchedulerOutput,
)
from mdm_schedules.integrations.diffusers.pipeline import (
    MaskedDiffusionPipeline,
    MaskedDiffusionPipelineOutput,
)
from mdm_schedules.integrations.diffusers.tokens import MaskedDiffusionScheduler
from mdm_schedules.integrations.diffusers.uniform import UniformDiffusionScheduler

__all__ = [
    "BlockMaskedDiffusionScheduler",
    "BlockMaskedDiffusionSchedulerOutput",
    "ConfigMixin",
    "MaskedDiffusionPipeline",
    "MaskedDiffusionPipelineOutput",
    "MaskedDiffusionScheduler",
    "SchedulerMixin",
    "UniformDiffusionScheduler",
]

# model_index.json records the module of a class: this one, which stays valid when the files
# behind it move
for _class in (
    BlockMaskedDiffusionScheduler,
    MaskedDiffusionPipeline,
    MaskedDiffusionScheduler,
    UniformDiffusionScheduler,
):
    _class.__module__ = __name__
