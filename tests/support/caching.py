"""Tiny models of every family that allows a key-value cache, and prompts for them."""

import functools
import tempfile
from pathlib import Path

import torch
import transformers
from encoders import build
from released import BLOCKS, CONFIGS, MASK, write

from mdm_schedules.integrations.transformers.native import load_native

ENCODERS = ("bert", "roberta", "esm", "modernbert", "distilbert")
BLOCK = 4  # of answers, where the model has none of its own
# before transformers 5, encoders do not let others replace their attention
HOOKED = int(transformers.__version__.partition(".")[0]) >= 5
APPROXIMATE = [name for name in CONFIGS if name not in BLOCKS] + list(ENCODERS) * HOOKED


@functools.cache
def model_of(family, attention="sdpa"):
    """Return the model, one for all tests."""
    if family in ENCODERS:
        model = build(family)
        model.set_attn_implementation(attention)
        model.config.mask_token_id = 4
        return model
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), family)
        return load_native(
            folder, dtype=torch.float32, mask_token_id=MASK, attn_implementation=attention
        )


def prompts(model, length=None, rows=3):
    """Return prompts, and an attention mask: the first row has one block of padding."""
    length = 2 * block_of(model) if length is None else length
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, model.config.vocab_size - 6, (rows, length), generator=generator)
    own = torch.ones_like(ids)
    own[0, : block_of(model)] = 0
    return ids, own


def block_of(model):
    """Return the length of answers' blocks."""
    return getattr(model.config, "block_length", None) or BLOCK
