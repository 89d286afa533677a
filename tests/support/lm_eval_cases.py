"""A tiny model with words for tokens, and requests as lm-eval makes them."""

from types import SimpleNamespace

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mdm_schedules.demo import models as demo_models
from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM

CODE = str(demo_models.path("code"))
WORDS, MASK = 3, 3


def words(size=WORDS):
    """A tokenizer whose words are numbers from 0, followed by the mask."""
    vocabulary = {str(i): i for i in range(size)} | {"[MASK]": size}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, mask_token="[MASK]")


def request(*args):
    return SimpleNamespace(args=args)


def inconsistent(tokens):
    """Conditionals that belong to no joint law, so that each order gives another likelihood."""
    table = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 9, MASK + 1, MASK + 1)))
    table[:, :, MASK] = 0  # a mask holds no information
    place = torch.arange(tokens.shape[1])
    away = (place[None] - place[:, None]).clamp(-4, 4) + 4
    return table[1, 4, 0] + table[0][away[None], tokens[:, None, :]].sum(2) * 1.5


def tiny(**options):
    return MaskedDiffusionLM(inconsistent, words(), **options)
