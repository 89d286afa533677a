"""transformers models that write text by unmasking: `generate`, a mixin, an auto class, a
generation config.
"""

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
