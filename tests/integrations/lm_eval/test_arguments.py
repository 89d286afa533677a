"""Arguments of the model, as Python and as lm-eval's text."""

import importlib
import sys

import lm_eval
import pytest
from lm_eval_cases import MASK, inconsistent, tiny, words

from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MissingExtraError,
    UnknownNameError,
)
from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM
from mdm_schedules.integrations.lm_eval.options import parse_arguments


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"stepz": 3}, InvalidTypeError, "'stepz'. Did you mean 'steps'"),
        ({"schedule": "lineer"}, UnknownNameError, "'linear'"),
        ({"batch_size": "auto"}, InvalidTypeError, "batch_size=8"),
        ({"mc_num": 0}, InvalidValueError, "mc_num"),
        ({"seed": -1}, InvalidValueError, "seed"),
        ({"max_length": 100000}, InvalidValueError, "max_length"),
        ({"num_return_sequences": 2}, InvalidTypeError, "num_return_sequences"),
    ],
)
def test_wrong_arguments(code, arguments, error, words):
    with pytest.raises(error, match=words):
        MaskedDiffusionLM(*code, **arguments)


def test_a_model_without_tokenizer_or_mask():
    with pytest.raises(InvalidTypeError, match="needs tokenizer="):
        MaskedDiffusionLM(inconsistent)
    silent = words()
    silent.mask_token = None
    with pytest.raises(InvalidValueError, match="mask_token_id"):
        MaskedDiffusionLM(inconsistent, silent)
    assert MaskedDiffusionLM(inconsistent, silent, mask_token_id=MASK).mask_token_id == MASK
    with pytest.raises(InvalidValueError, match="no beginning-of-sequence"):
        tiny(add_bos_token=True)


def test_arguments_as_text():
    text = (
        "pretrained=a/b,schedule=beta(a=0.9,b=0.3), "
        "steps=16,threshold=0.9,infill=False,suppress_tokens=[1,2]"
    )
    assert parse_arguments(text) == {
        "pretrained": "a/b",
        "schedule": "beta(a=0.9,b=0.3)",
        "steps": 16,
        "threshold": 0.9,
        "infill": False,
        "suppress_tokens": [1, 2],
    }
    assert parse_arguments("") == {}
    with pytest.raises(InvalidValueError, match="name=value"):
        parse_arguments("pretrained")


def test_imported_again_it_stays_registered_and_without_lm_eval_says_what_to_install(monkeypatch):
    module = importlib.import_module("mdm_schedules.integrations.lm_eval")
    importlib.reload(module)
    assert lm_eval.api.registry.get_model("mdm_schedules") is MaskedDiffusionLM
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"mdm-schedules\[eval\]"):
        importlib.reload(module)
