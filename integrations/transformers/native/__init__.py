"""Released masked diffusion models as transformers' own architectures, without their code.

Importing this makes transformers' auto classes know the native models.
"""

from mdm_schedules.integrations.transformers.native.families import FAMILIES, family_of
from mdm_schedules.integrations.transformers.native.family import Family
from mdm_schedules.integrations.transformers.native.loading import is_released, load_native
from mdm_schedules.integrations.transformers.native.modeling import NATIVE
from mdm_schedules.integrations.transformers.native.tokenizer import load_tokenizer, tokenizer_mask

__all__ = [
    "FAMILIES",
    "NATIVE",
    "Family",
    "family_of",
    "is_released",
    "load_native",
    "load_tokenizer",
    "tokenizer_mask",
]
