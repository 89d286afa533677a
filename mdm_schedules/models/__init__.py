"""Models as the sampler sees them: one small adapter per family, and the denoiser it asks.

A new family is one module beside these, with an entry point in the group `mdm_schedules.models`.
"""

from mdm_schedules.models.base import ModelAdapter, get_adapter, list_models, models
from mdm_schedules.models.denoiser import Denoiser, ModelDenoiser, Pass, as_denoiser, evaluating

__all__ = [
    "Denoiser",
    "ModelAdapter",
    "ModelDenoiser",
    "Pass",
    "as_denoiser",
    "evaluating",
    "get_adapter",
    "list_models",
    "models",
]
