"""Stop strings of every kind end an answer of lm-eval, and its passes where they can."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM

LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789?!:\n"
SPECIAL = ("<|endoftext|>", "<|mdm_mask|>", "<|eot_id|>", "<|start|>")


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {letter: i for i, letter in enumerate(LETTERS)}
    vocabulary |= {pair: len(vocabulary) + i for i, pair in enumerate(("ne", "xt", "!\n"))}
    merges = [("n", "e"), ("x", "t"), ("!", "\n")]
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    plain.decoder = decoders.Fuse()
    plain.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in SPECIAL])
    plain.add_tokens([AddedToken("#end#", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        mask_token=SPECIAL[1],
    )


def answer(tokenizer, text, until, **options):
    """What a model that always writes `text` answers, and the passes spent."""
    ids = tokenizer(text, add_special_tokens=False).input_ids

    def model(tokens):
        logits = torch.zeros(*tokens.shape, len(tokenizer))
        for column in range(tokens.shape[1]):
            at = column - 2
            logits[:, column, ids[at] if 0 <= at < len(ids) else tokenizer.eos_token_id] = 20.0
        return logits

    lm = MaskedDiffusionLM(model, tokenizer, max_length=128, **options)
    args = ("a:", {"until": until, "max_gen_toks": 40, "do_sample": False})
    return lm.generate_until([SimpleNamespace(args=args)], disable_tqdm=True)[0], lm.passes[0]


@pytest.mark.parametrize(
    ("text", "until", "expected"),
    [
        ("42<|eot_id|>q: next", ["<|eot_id|>"], "42"),
        ("42<|eot_id|>q: next", ["q:", "<|eot_id|>"], "42"),
        ("42<|eot_id|>q: next", "q:", "42"),
        ("42<|eot_id|>q: next", [], "42q: next"),
        ("42<|eot_id|>q: next", [""], "42q: next"),
        ("42#end#more", ["#end#"], "42"),
        ("42!\nmore", ["\n"], "42!"),
        ("42!\nmore", ["!\n"], "42"),
        ("42 next", ["ex"], "42 n"),
        ("42 next", [" n"], "42"),
        ("<|start|>42<|eot_id|>q", ["2<|eot_id|>q"], "4"),
        ("<|start|>42 next<|eot_id|>q", ["xt<|eot_id|>"], "42 ne"),
        ("<|start|>42 next<|eot_id|>q", ["t<|eot_id|>"], "42 nex"),
        ("4<|start|>2q", ["42"], ""),
        ("42", ["<|endoftext|>"], "42"),
        ("42", ["<|mdm_mask|>", "zz"], "42"),
    ],
)
def test_stop_strings_of_any_kind_end_the_answer(tokenizer, text, until, expected):
    assert answer(tokenizer, text, until, steps=8)[0] == expected


@pytest.mark.parametrize("stop", ["<|eot_id|>", "#end#", "!\n", "?"])
def test_a_stop_string_that_is_one_token_ends_the_passes(tokenizer, stop):
    text = f"42{stop}" + "next " * 12
    options = {"steps": 40, "block_length": 10}
    assert answer(tokenizer, text, [], **options)[1] == 40
    short, passes = answer(tokenizer, text, [stop], **options)
    assert short == "42"
    assert passes <= 10  # of 40: not beyond the first block


def test_an_end_of_sequence_token_in_the_settings_of_a_task_is_no_part_of_the_answer(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert answer(tokenizer, "42<|eot_id|>q", ["?"], steps=8, eos_token_id=end)[0] == "42"
