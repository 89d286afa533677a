"""Answers: order, stops, chat, caches, and prompts that are refused."""

from types import SimpleNamespace

import pytest
import torch
from lm_eval.api.model import CacheHook
from lm_eval_cases import CODE, inconsistent, request, tiny, words
from transformers import AutoTokenizer

from mdm_schedules.demo import models as demo_models
from mdm_schedules.demo import sudoku
from mdm_schedules.errors import (
    InvalidValueError,
)
from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM
from mdm_schedules.integrations.lm_eval.options import task_options


def test_answers_end_where_they_should_and_keep_their_order(code):
    model, tokenizer = code
    lm = MaskedDiffusionLM(
        model, tokenizer, steps=4, temperature=1.0, remasking="random", batch_size=3
    )
    prompts = ["def f(", "import os\n", "x", "class A", "return "]
    long = {"until": [], "max_gen_toks": 12}
    whole = lm.generate_until([request(prompt, long) for prompt in prompts])
    assert lm.passes == [4] * 5
    for prompt, text in zip(prompts, whole, strict=True):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        out = model.generate(
            ids,
            max_new_tokens=12,
            steps=4,
            temperature=1.0,
            remasking="random",
            seed=[0],
            eos_token_id=3,
        )
        assert text == tokenizer.decode(out.sequences[0, ids.shape[1] :], skip_special_tokens=True)
    stop = whole[0][5]
    cut = lm.generate_until([request(prompt, {**long, "until": stop}) for prompt in prompts[::-1]])[
        ::-1
    ]
    assert cut == [text.split(stop)[0] for text in whole]
    assert len(cut[0]) <= 5


def test_answers_do_not_depend_on_the_batch_and_copies_differ(code):
    lm = MaskedDiffusionLM(*code, steps=3, temperature=1.0, max_new_tokens=10)
    asked = [request("self." + "x" * (i % 5), {"until": []}) for i in range(7)]
    alone = lm.generate_until(asked)
    assert alone[0] != alone[5]  # the same request again: another answer
    lm.batch_size = 4
    assert lm.generate_until(asked) == alone
    assert lm.generate_until(asked[:3]) == alone[:3]


def test_a_model_that_takes_no_padding_gets_even_batches():
    sizes = []

    def model(tokens):
        sizes.append(tuple(tokens.shape))
        return inconsistent(tokens)

    lm = MaskedDiffusionLM(model, words(), batch_size=8, max_new_tokens=2, steps=1)
    asked = [request(text, {"until": []}) for text in ("0 1", "2", "1 1", "0")]
    answers = lm.generate_until(asked)
    assert sorted(sizes) == [(2, 3), (2, 4)]
    lm.batch_size = 1
    assert lm.generate_until(asked) == answers


def test_special_stops_and_the_end_of_sequence(code):
    tokenizer = code[1]
    target = tokenizer.convert_tokens_to_ids(["a", "b"])

    def writes(tokens):
        wanted = torch.tensor(
            [*target, tokenizer.eos_token_id, *target, tokenizer.pad_token_id, *target]
        )
        size = len(tokenizer)
        logits = torch.zeros(*tokens.shape, size)
        logits[:, 1:, :] = (
            20 * torch.nn.functional.one_hot(wanted, size)[: tokens.shape[1] - 1].float()
        )
        return logits

    ends = {"max_gen_toks": 8, "until": [tokenizer.pad_token]}
    lm = MaskedDiffusionLM(writes, tokenizer)
    assert lm.generate_until([request("x", ends)]) == ["ab"]
    lm = MaskedDiffusionLM(writes, tokenizer, eos_token_id=tokenizer.bos_token_id)
    assert lm.generate_until([request("x", ends)]) == ["abab"]
    assert lm.generate_until([request("x", {"max_gen_toks": 8})]) == ["ababab"]


def test_masks_in_the_prompt_are_filled_and_the_answer_is_the_whole():
    lm = MaskedDiffusionLM(
        str(demo_models.path("sudoku")), max_new_tokens=0, device="cpu", mask_token_id=None
    )
    grid = sudoku.held_out_grids(1, seed=0)[0]
    puzzle = "".join("." if i % 9 == 0 else str(x) for i, x in enumerate(grid))
    (answer,) = lm.generate_until([request(puzzle, {"until": ["\n\n"]})])
    assert answer.replace(" ", "") == "".join(map(str, grid))
    with pytest.raises(InvalidValueError, match=r"cannot read 'no digits'.*UNK"):
        lm.loglikelihood([request("", "no digits")])


def test_settings_of_the_task_hold_where_the_model_says_nothing(caplog):
    assert task_options({"until": "x"}) == ({"max_new_tokens": 256}, ["x"])
    greedy = {
        "do_sample": False,
        "temperature": 0.8,
        "top_p": 0.9,
        "max_gen_toks": 7,
        "until": ["a", "b"],
    }
    assert task_options(greedy) == ({"max_new_tokens": 7}, ["a", "b"])
    drawn = {"do_sample": True, "top_p": 0.9, "max_tokens": 5, "steps": 3, "num_beams": 4}
    assert task_options(drawn)[0] == {
        "top_p": 0.9,
        "steps": 3,
        "temperature": 1.0,
        "max_new_tokens": 5,
    }
    assert "'num_beams'" in caplog.text
    lm = tiny(max_new_tokens=3, steps=1)
    assert len(lm.generate_until([request("0", {"max_gen_toks": 6, "steps": 2})])[0].split()) == 3
    assert lm.passes == [1]


def test_long_prompts_lose_their_beginning():
    lm = tiny(max_length=6, max_new_tokens=2)
    assert lm.generate_until([request("0 1 2 0 1 2 1", {})]) == lm.generate_until(
        [request("0 1 2 1", {})]
    )
    with pytest.raises(InvalidValueError, match=r"6 tokens leaves no room .* max_new_tokens=3"):
        tiny(max_length=6).generate_until([request("0", {"max_gen_toks": 6})])


def test_prompts_that_cannot_be_answered_are_refused_before_any_pass():
    for options, prompt, said in (
        ({"infill": False}, "0 [MASK]", "infill=False"),
        ({"max_new_tokens": 0}, "0", "no masks"),
    ):
        lm = tiny(**options)
        with pytest.raises(InvalidValueError, match=said):
            lm.generate_until(
                [request("0 [MASK]" if prompt == "0" else "0", {}), request(prompt, {})]
            )
        assert lm.passes == []
    assert (
        "[MASK]"
        not in tiny(max_new_tokens=0).generate_until([request("0 [MASK]", {"until": "[MASK]"})])[0]
    )


def test_what_is_finished_is_cached():
    lm = tiny(mc_num=3, max_new_tokens=2, batch_size=2)
    lm.set_cache_hook(CacheHook(SimpleNamespace(dbdict={})))
    lm.generate_until([request("0", {}), request("1 2", {})])
    lm.loglikelihood([request("0", " 1")])
    lm.loglikelihood_rolling([request("0 1")])
    kinds = [type(value) for value in lm.cache_hook.dbdict.values()]
    assert kinds == [str, str, tuple, float]


def test_bos_and_chat(code):
    model, tokenizer = code
    lm = MaskedDiffusionLM(model, tokenizer, add_bos_token=True, mc_num=1)
    assert lm.tok_encode("a")[0] == tokenizer.bos_token_id
    assert lm.tok_encode("[BOS]a") == lm.tok_encode("a")
    plain = MaskedDiffusionLM(model, tokenizer, mc_num=1)
    assert lm.loglikelihood([request("", "a")]) == plain.loglikelihood([request("[BOS]", "a")])
    with pytest.raises(InvalidValueError, match="no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "x"}])
    talks = AutoTokenizer.from_pretrained(CODE)
    talks.chat_template = (
        "{% for m in messages %}<{{ m.content }}{% if not loop.last or add_generation_prompt %}>{% "
        "endif %}{% endfor %}"
    )
    lm = MaskedDiffusionLM(model, talks)
    assert lm.apply_chat_template([{"role": "user", "content": "x"}]) == "<x>"
    assert (
        lm.apply_chat_template([{"role": "assistant", "content": "x"}], add_generation_prompt=False)
        == "<x"
    )
    assert lm.chat_template(True) == talks.chat_template
