"""Prompts that are longer than the model reads: cut at their beginning, counted, and said."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM

BOS, MASK, LENGTH = 8, 9, 6


@pytest.fixture
def lm():
    words = {str(i): i for i in range(8)} | {"<s>": BOS, "[MASK]": MASK}
    plain = Tokenizer(models.WordLevel(words, unk_token="0"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, mask_token="[MASK]", bos_token="<s>"
    )
    seen = []

    def model(tokens):
        seen.extend(tokens.tolist())
        return torch.zeros(*tokens.shape, 10)

    made = MaskedDiffusionLM(
        model, tokenizer, max_length=LENGTH, max_new_tokens=2, steps=1, add_bos_token=True, mc_num=4
    )
    made.seen = seen
    return made


def request(*args):
    return SimpleNamespace(args=args)


def test_a_prompt_is_cut_behind_its_first_token_and_it_is_said(lm, caplog):
    lm.generate_until(
        [request("1 2 3 4 5 6 7", {"until": []}), request("1 2 3", {"until": []})],
        disable_tqdm=True,
    )
    assert [BOS, 5, 6, 7, MASK, MASK] in lm.seen
    assert [BOS, 1, 2, 3, MASK, MASK] in lm.seen
    assert "1 of 2 prompts did not fit into the 6 tokens" in caplog.text
    assert "lost up to 4 tokens" in caplog.text
    told = lm.get_model_info()["truncated"]
    assert told == {"prompts": 1, "contexts": 0, "most_tokens": 4}


def test_a_context_is_cut_likewise_and_a_long_text_in_pieces_is_not_counted(lm, caplog):
    lm.loglikelihood([request("1 2 3 4 5 6 7", " 1 2")], disable_tqdm=True)
    assert all(row[:4] == [BOS, 5, 6, 7] for row in lm.seen)
    assert "1 of 1 contexts did not fit" in caplog.text
    lm.loglikelihood_rolling([request("1 2 3 4 5 6 7 1 2 3")], disable_tqdm=True)
    assert lm.truncated == {"prompts": 0, "contexts": 1, "most_tokens": 4}
    # each call says its own number
    lm.loglikelihood([request("1 2 3 4 5 6 7", " 1 2"), request("1", " 2")], disable_tqdm=True)
    assert "1 of 2 contexts did not fit" in caplog.text


def test_what_fits_is_not_warned_about(lm, caplog):
    lm.generate_until([request("1 2 3", {"until": []})], disable_tqdm=True)
    lm.loglikelihood([request("1 2", " 1 2")], disable_tqdm=True)
    assert not caplog.text
    assert lm.get_model_info()["truncated"]["most_tokens"] == 0
