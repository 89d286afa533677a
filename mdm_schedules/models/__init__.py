"""Models as the sampler sees them: an adapter per model family, and the denoiser that it calls.

To add a family, write one module beside these, with an entry point in the group
`mdm_schedules.models`.
"""

from mdm_schedules.models.base import ModelAdapter, get_adapter, list_models, models
from mdm_schedules.models.denoiser import (
    Denoiser,
    ModelDenoiser,
    Pass,
    as_denoiser,
    evaluating,
    takes_padding,
)

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
    "takes_padding",
]
