"""Mask schedules for masked diffusion language models: the same model, fewer forward passes.

    import mdm_schedules as mdm

    schedule = mdm.get_schedule("beta", a=0.9, b=0.3)
    schedule.plan(num_tokens=256, steps=16)

Every name is loaded when it is first used, so that importing the package costs nothing, not even
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mdm_schedules import errors
from mdm_schedules._version import __version__
from mdm_schedules._watch import watch as _watch

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
        UniformDiffusionScheduler,
    )
    from mdm_schedules.integrations.transformers import (
        AutoModelForMaskedDiffusion,
        MaskedDiffusionGenerationConfig,
        MaskedDiffusionMixin,
    )
    from mdm_schedules.lookup import get_schedule, list_schedules, register_schedule
    from mdm_schedules.models import list_models
    from mdm_schedules.models.cache import cache_size
    from mdm_schedules.presets import list_presets
    from mdm_schedules.sampling import (
        GenerationOutput,
        StepInfo,
        generate,
        list_commits,
        list_policies,
        sample,
    )
    from mdm_schedules.schedules import (
        Beta,
        Cosine,
        EnergyOptimal,
        Geometric,
        Linear,
        LogLinear,
        Polynomial,
        Schedule,
        Shifted,
        Sine,
        SquaredSine,
        Tabulated,
    )
    from mdm_schedules.tuning import compare_caches, tune

# the module of each name that is loaded when it is first used; a new one stands here, and above
# for type checkers
_LAZY = {
    "conditional_kinetic_energy": "energy",
    "discrete_energy": "energy",
    "energy_excess": "energy",
    "geodesic_energy": "energy",
    "kinetic_energy": "energy",
    "token_energy": "energy",
    "Evaluation": "hub",
    "FoundSchedule": "hub",
    "search_schedules": "hub",
    "InformationProfile": "information",
    "DistributedOutput": "integrations.accelerate",
    "generate_distributed": "integrations.accelerate",
    "BlockMaskedDiffusionScheduler": "integrations.diffusers",
    "MaskedDiffusionPipeline": "integrations.diffusers",
    "MaskedDiffusionScheduler": "integrations.diffusers",
    "UniformDiffusionScheduler": "integrations.diffusers",
    "AutoModelForMaskedDiffusion": "integrations.transformers",
    "MaskedDiffusionGenerationConfig": "integrations.transformers",
    "MaskedDiffusionMixin": "integrations.transformers",
    "get_schedule": "lookup",
    "list_schedules": "lookup",
    "register_schedule": "lookup",
    "cache_size": "models.cache",
    "list_models": "models",
    "list_presets": "presets",
    "GenerationOutput": "sampling",
    "StepInfo": "sampling",
    "generate": "sampling",
    "list_commits": "sampling",
    "list_policies": "sampling",
    "sample": "sampling",
    "Beta": "schedules",
    "Cosine": "schedules",
    "EnergyOptimal": "schedules",
    "Geometric": "schedules",
    "Linear": "schedules",
    "LogLinear": "schedules",
    "Polynomial": "schedules",
    "Schedule": "schedules",
    "Shifted": "schedules",
    "Sine": "schedules",
    "SquaredSine": "schedules",
    "Tabulated": "schedules",
    "compare_caches": "tuning",
    "tune": "tuning",
}

# modules that are there as attributes without an import of their own
_MODULES = (
    "checks",
    "files",
    "hub",
    "integrations",
    "lookup",
    "plan",
    "presets",
    "registry",
    "schedules",
)

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
    "Shifted",
    "Sine",
    "SquaredSine",
    "StepInfo",
    "Tabulated",
    "UniformDiffusionScheduler",
    "__version__",
    "cache_size",
    "compare_caches",
    "conditional_kinetic_energy",
    "discrete_energy",
    "energy_excess",
    "errors",
    "generate",
    "generate_distributed",
    "geodesic_energy",
    "get_schedule",
    "kinetic_energy",
    "list_commits",
    "list_models",
    "list_policies",
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
        value = getattr(importlib.import_module(f"mdm_schedules.{_LAZY[name]}"), name)
    elif name == "demo_models":  # the folder of the models that ship
        value = importlib.import_module("mdm_schedules.demo.models")
    elif name in _MODULES:
        value = importlib.import_module(f"mdm_schedules.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


_watch()
