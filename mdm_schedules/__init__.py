"""Mask schedules for masked diffusion language models: the same model, fewer forward passes.

    import mdm_schedules as mdm

    schedule = mdm.get_schedule("beta", a=0.9, b=0.3)
    schedule.plan(num_tokens=256, steps=16)

Names that need transformers, diffusers, accelerate, optuna or matplotlib are loaded when first
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mdm_schedules import errors
from mdm_schedules.registry import get_schedule, list_schedules, register_schedule
from mdm_schedules.schedules import (
    Beta,
    Cosine,
    EnergyOptimal,
    Geometric,
    Linear,
    LogLinear,
    Polynomial,
    Schedule,
    Sine,
    SquaredSine,
    Tabulated,
)

if TYPE_CHECKING:
    from mdm_schedules.energy import (
        conditional_kinetic_energy,
        discrete_energy,
        energy_excess,
        geodesic_energy,
        kinetic_energy,
        token_energy,
    )
    from mdm_schedules.hub import Evaluation, FoundSchedule, search_schedules
    from mdm_schedules.information import InformationProfile
    from mdm_schedules.integrations.accelerate import DistributedOutput, generate_distributed
    from mdm_schedules.integrations.diffusers import (
        BlockMaskedDiffusionScheduler,
        MaskedDiffusionPipeline,
        MaskedDiffusionScheduler,
    )
    from mdm_schedules.integrations.transformers import (
        AutoModelForMaskedDiffusion,
        MaskedDiffusionGenerationConfig,
        MaskedDiffusionMixin,
        generate,
    )
    from mdm_schedules.presets import list_presets
    from mdm_schedules.sampling import GenerationOutput, StepInfo, sample
    from mdm_schedules.tuning import tune

__version__ = "0.1.0"

# name -> the module that has it; add a lazily loaded public name here
_LAZY = {
    "conditional_kinetic_energy": "mdm_schedules.energy",
    "discrete_energy": "mdm_schedules.energy",
    "energy_excess": "mdm_schedules.energy",
    "geodesic_energy": "mdm_schedules.energy",
    "kinetic_energy": "mdm_schedules.energy",
    "token_energy": "mdm_schedules.energy",
    "InformationProfile": "mdm_schedules.information",
    "list_presets": "mdm_schedules.presets",
    "DistributedOutput": "mdm_schedules.integrations.accelerate",
    "generate_distributed": "mdm_schedules.integrations.accelerate",
    "BlockMaskedDiffusionScheduler": "mdm_schedules.integrations.diffusers",
    "MaskedDiffusionPipeline": "mdm_schedules.integrations.diffusers",
    "MaskedDiffusionScheduler": "mdm_schedules.integrations.diffusers",
    "Evaluation": "mdm_schedules.hub",
    "FoundSchedule": "mdm_schedules.hub",
    "search_schedules": "mdm_schedules.hub",
    "AutoModelForMaskedDiffusion": "mdm_schedules.integrations.transformers",
    "MaskedDiffusionGenerationConfig": "mdm_schedules.integrations.transformers",
    "MaskedDiffusionMixin": "mdm_schedules.integrations.transformers",
    "generate": "mdm_schedules.integrations.transformers",
    "GenerationOutput": "mdm_schedules.sampling",
    "StepInfo": "mdm_schedules.sampling",
    "sample": "mdm_schedules.sampling",
    "tune": "mdm_schedules.tuning",
}

__all__ = [
    "AutoModelForMaskedDiffusion",
    "Beta",
    "BlockMaskedDiffusionScheduler",
    "Cosine",
    "DistributedOutput",
    "EnergyOptimal",
    "Evaluation",
    "FoundSchedule",
    "GenerationOutput",
    "Geometric",
    "InformationProfile",
    "Linear",
    "LogLinear",
    "MaskedDiffusionGenerationConfig",
    "MaskedDiffusionMixin",
    "MaskedDiffusionPipeline",
    "MaskedDiffusionScheduler",
    "Polynomial",
    "Schedule",
    "Sine",
    "SquaredSine",
    "StepInfo",
    "Tabulated",
    "conditional_kinetic_energy",
    "discrete_energy",
    "energy_excess",
    "errors",
    "generate",
    "generate_distributed",
    "geodesic_energy",
    "get_schedule",
    "kinetic_energy",
    "list_presets",
    "list_schedules",
    "register_schedule",
    "sample",
    "search_schedules",
    "token_energy",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
