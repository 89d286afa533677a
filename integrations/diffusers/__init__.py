"""diffusers: schedulers to swap into its pipelines of tokens, and a pipeline for every other masked
diffusion model.

Importing this module is also what lets `DiffusionPipeline.from_pretrained(folder)` find our
schedulers: it looks for the module named in model_index.json among those already imported, and
    wants `SchedulerMixin` there, too.
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

__all__ = [
    "BlockMaskedDiffusionScheduler",
    "BlockMaskedDiffusionSchedulerOutput",
    "ConfigMixin",
    "MaskedDiffusionPipeline",
    "MaskedDiffusionPipelineOutput",
    "MaskedDiffusionScheduler",
    "SchedulerMixin",
]

# model_index.json keeps the module of a class: this one, which stays when the files behind it are
# moved
for _class in (BlockMaskedDiffusionScheduler, MaskedDiffusionPipeline, MaskedDiffusionScheduler):
    _class.__module__ = __name__
