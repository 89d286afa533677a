"""transformers models that write by unmasking: `generate`, mixin, auto class, generation config."""

from mdm_schedules.integrations.transformers.auto import (
    AutoModelForMaskedDiffusion,
    MaskedDiffusionMixin,
)
from mdm_schedules.integrations.transformers.generation_config import (
    MaskedDiffusionGenerationConfig,
)
from mdm_schedules.sampling.generation import generate

__all__ = [
    "AutoModelForMaskedDiffusion",
    "MaskedDiffusionGenerationConfig",
    "MaskedDiffusionMixin",
    "generate",
]
