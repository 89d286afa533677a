"""A masked language model with transformers' own generate, its prompts, and usual options."""

import torch
import transformers
from encoders import SIZES, small_bert
from families import MASK, V
from transformers import GenerationConfig, GenerationMixin

OPTIONS = {
    "schedule": "beta(a=0.8, b=0.3)",
    "steps": 4,
    "max_new_tokens": 12,
    "temperature": 0.7,
    "seed": 3,
}


class BertThatGenerates(transformers.BertForMaskedLM, GenerationMixin):
    """A masked LM with transformers' own generate, as remote code often has."""


def bert(cls=BertThatGenerates):
    sizes = {**SIZES, "vocab_size": V, "max_position_embeddings": 64}
    model = small_bert(cls, **sizes, initializer_range=0.2, mask_token_id=MASK)
    # transformers 4 does not see that this class generates
    if getattr(model, "generation_config", None) is None:
        model.generation_config = GenerationConfig()
    return model


def prompts(batch=2, length=5, seed=0):
    return torch.randint(5, MASK, (batch, length), generator=torch.Generator().manual_seed(seed))
