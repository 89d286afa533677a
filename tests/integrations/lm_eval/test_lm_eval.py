"""lm-eval: the bound against exact values, answers per request, tasks, and the command."""

import functools
import importlib
import itertools
import json
import math
import os
import runpy
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import families
import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.api.model import CacheHook
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import mdm_schedules as mdm
from mdm_schedules.cli import main
from mdm_schedules.demo import models as demo_models
from mdm_schedules.demo import sudoku
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    MissingExtraError,
    UnknownNameError,
)
from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM, lm_eval_objective
from mdm_schedules.integrations.lm_eval.likelihood import Piece, patterns, pieces
from mdm_schedules.integrations.lm_eval.options import parse_arguments, task_options

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


def log_probabilities(tokens):
    logits = inconsistent(torch.tensor([tokens]))[0].clone()
    logits[:, MASK] = -torch.inf
    return logits.log_softmax(-1)


def over_all_orders(context, target):
    """Compute the bound in its other form, a mean over orders of revealing.

    The mean is of the sum of log p(next token | tokens revealed before).
    """
    total = 0.0
    for order in itertools.permutations(range(len(target))):
        seen = [MASK] * len(target)
        for i in order:
            total += float(log_probabilities(context + seen)[len(context) + i, target[i]])
            seen[i] = target[i]
    return total / math.factorial(len(target))


def tiny(**options):
    return MaskedDiffusionLM(inconsistent, words(), **options)


@pytest.fixture(scope="module")
def code():
    return mdm.AutoModelForMaskedDiffusion.from_pretrained(CODE), AutoTokenizer.from_pretrained(
        CODE
    )


# --- the bound


@pytest.mark.parametrize(("context", "target"), [([0, 2], [1]), ([], [2, 0]), ([1], [0, 2, 2, 1])])
def test_with_enough_passes_the_bound_is_exact(context, target):
    text = [" ".join(map(str, ids)) for ids in (context, target)]
    (value, same), (one, _) = tiny(mc_num=2 ** len(target) - 1, batch_size=4).loglikelihood(
        [request(text[0], " " + text[1]), request(text[0], " 1")]
    )
    assert value == pytest.approx(over_all_orders(context, target), abs=1e-9)
    assert same is False
    # one token: the plain log-probability, in one pass
    assert one == pytest.approx(float(log_probabilities([*context, MASK])[-1, 1]), abs=1e-9)


def test_the_estimate_is_unbiased():
    """Two passes of 31: the mean of 600 seeds against the exact value, at p > 1e-3."""
    lm, values = tiny(mc_num=2, batch_size=1), []
    for lm.seed in range(600):
        values.append(lm.loglikelihood([request("0", " 2 1 0 0 2")], disable_tqdm=True)[0][0])
    exact = over_all_orders([0], [2, 1, 0, 0, 2])
    error = np.std(values, ddof=1) / len(values) ** 0.5
    assert np.std(values) > 0.1
    assert abs(np.mean(values) - exact) < 3.29 * error


def test_of_a_consistent_model_the_bound_is_the_likelihood():
    """A Markov chain with its exact posteriors: all orders agree, so the bound is tight."""
    draw = np.random.default_rng(0)
    joint = draw.dirichlet(np.ones(WORDS))
    for _ in range(3):
        joint = joint[..., None] * draw.dirichlet(np.ones(WORDS), size=WORDS)

    def posterior(tokens):
        rows = []
        for row in tokens.tolist():
            seen = joint[tuple(slice(None) if x == MASK else slice(x, x + 1) for x in row)]
            marginals = [seen.sum(tuple(k for k in range(4) if k != i)) for i in range(4)]
            full = [
                m if x == MASK else np.eye(WORDS)[x] for m, x in zip(marginals, row, strict=True)
            ]
            rows.append(np.log(np.pad(np.array(full), ((0, 0), (0, 1))) + 1e-300))
        return torch.from_numpy(np.array(rows))

    lm = MaskedDiffusionLM(posterior, words(), mc_num=15)
    text = (2, 0, 1, 1)
    assert lm.loglikelihood_rolling([request("2 0 1 1")])[0] == pytest.approx(
        math.log(joint[text]), abs=1e-9
    )
    given = math.log(joint[text] / joint[2, 0].sum())
    assert lm.loglikelihood([request("2 0", " 1 1")])[0][0] == pytest.approx(given, abs=1e-9)


@pytest.mark.parametrize(("length", "draws"), [(3, 7), (4, 14), (9, 12), (50, 7)])
def test_patterns_weigh_every_token_alike(length, draws):
    """Each token is hidden with a mean total weight of 1, and sizes are even."""
    shares = np.zeros(length)
    for seed in range(300):
        rows = list(patterns(Piece([1], [0] * length), draws, seed))
        assert len(rows) == draws
        shares += sum(weight * hidden for hidden, weight in rows) / 300
        assert sum(weight * hidden.sum() for hidden, weight in rows) == pytest.approx(length)
    assert np.abs(shares - 1).max() < 0.3
    if draws < 2**length - 1:
        sizes = np.sort([hidden.sum() for hidden, _ in rows])
        assert np.abs(sizes - (np.arange(draws) + 0.5) * length / draws - 0.5).max() <= max(
            1, length / draws
        )


def test_the_shift_of_dream_and_guidance_count():
    """The expected values of two tokens are computed by hand from the family's own logits."""
    tokenizer = words(families.MASK)
    for family, shift, extra in (
        (families.LLaDA(), 0, {}),
        (families.Dream(), 1, {"attention_mask": "full"}),
    ):
        ask = functools.partial(family, **extra)
        for scale in (0.0, 0.5):
            lm = MaskedDiffusionLM(family, tokenizer, mc_num=3, batch_size=2, cfg_scale=scale)

            def chance(seen, i, ask=ask, shift=shift, scale=scale):
                row = ask(torch.tensor([[7, 30, *seen]])).logits[0, 2 + i - shift]
                blind = ask(torch.tensor([[families.MASK, families.MASK, *seen]])).logits[
                    0, 2 + i - shift
                ]
                row = (row + scale * (row - blind)).detach()
                row[families.MASK] = -torch.inf
                return row.log_softmax(0)

            both = [families.MASK] * 2
            first = chance(both, 0)[5] + chance([5, families.MASK], 1)[9]
            second = chance(both, 1)[9] + chance([families.MASK, 9], 0)[5]
            value = lm.loglikelihood([request("7 30", " 5 9")])[0][0]
            assert value == pytest.approx(float(first + second) / 2, abs=1e-4)


def test_a_long_text_goes_in_pieces_and_each_token_counts_once():
    lm = tiny(mc_num=15, max_length=4)
    text = [0, 1, 2, 2, 1, 0, 0, 2, 1, 1]
    parts = [([], text[:4]), ([], text[4:8]), (text[6:8], text[8:])]
    assert [(p.context, p.target) for p in pieces([], text, 4)] == parts
    exact = sum(over_all_orders(*part) for part in parts)
    assert lm.loglikelihood_rolling([request(" ".join(map(str, text)))])[0] == pytest.approx(
        exact, abs=1e-9
    )
    # a continuation longer than the model, and a context of which only the end fits
    assert [len(p.target) for p in pieces([1, 1, 1], text[:9], 4)] == [4, 4, 1]
    assert [(p.context, p.target) for p in pieces([0, 1, 2, 2, 2], [1, 1], 4)] == [([2, 2], [1, 1])]
    assert pieces([1], [], 4) == []


def test_likelihoods_do_not_depend_on_batch_or_order(code):
    asked = [request(f"x{'y' * (i % 3)} = ", "self.value" + "s" * (i % 4)) for i in range(6)] + [
        request("", "pass")
    ]
    lm = MaskedDiffusionLM(*code, mc_num=9, batch_size=1)
    alone = [value for value, _ in lm.loglikelihood(asked)]
    lm.batch_size = 7
    together = [value for value, _ in lm.loglikelihood(asked[::-1])][::-1]
    assert together == pytest.approx(alone, rel=1e-4)
    assert len(set(alone)) == 7
    lm.seed = 1
    assert lm.loglikelihood(asked)[0][0] != pytest.approx(alone[0], rel=1e-3)


def test_odd_continuations(code):
    lm = MaskedDiffusionLM(*code, mc_num=3)
    assert lm.loglikelihood([request("a", ""), request("", "")]) == [(0.0, True)] * 2
    assert lm.loglikelihood_rolling([request("")]) == [0.0]
    assert lm.loglikelihood([]) == []
    with pytest.raises(InvalidValueError, match="holds the mask token"):
        lm.loglikelihood([request("a", "b[MASK]")])
    # a context may have unknown places
    assert lm.loglikelihood([request("a[MASK]", "b")])[0][0] < 0
    # lm-eval's rule: spaces at the end of the context belong to the continuation
    assert lm.loglikelihood([request("a = ", "b")]) == lm.loglikelihood([request("a =", " b")])


def test_a_token_that_cannot_be_has_minus_infinity():
    def certain(tokens):
        return torch.log(torch.eye(WORDS + 1)[torch.zeros_like(tokens)])

    assert (
        MaskedDiffusionLM(certain, words()).loglikelihood([request("0", " 1")])[0][0] == -math.inf
    )
    assert MaskedDiffusionLM(certain, words()).loglikelihood([request("0", " 0")])[0][0] == 0


def test_greedy_is_what_would_be_written(code):
    model, tokenizer = code
    lm = MaskedDiffusionLM(model, tokenizer, check_greedy=True, mc_num=1, batch_size=2)
    ids = tokenizer("import ", return_tensors="pt", add_special_tokens=False).input_ids
    written = tokenizer.decode(model.generate(ids, max_new_tokens=5).sequences[0, ids.shape[1] :])
    wrong = ("a" if written[0] != "a" else "b") + written[1:]
    asked = [request("import", " " + text) for text in (written, wrong)]
    assert [same for _, same in lm.loglikelihood(asked)] == [True, False]
    assert lm.passes == []


# --- answers


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
    target = tokenizer("ab", add_special_tokens=False).input_ids

    def writes(tokens):
        wanted = torch.tensor(
            [*target, tokenizer.eos_token_id, *target, tokenizer.pad_token_id, *target]
        )
        logits = torch.zeros(*tokens.shape, 260)
        logits[:, 1:, :] = (
            20 * torch.nn.functional.one_hot(wanted, 260)[: tokens.shape[1] - 1].float()
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
    for options, prompt, words in (
        ({"infill": False}, "0 [MASK]", "infill=False"),
        ({"max_new_tokens": 0}, "0", "no masks"),
    ):
        lm = tiny(**options)
        with pytest.raises(InvalidValueError, match=words):
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


# --- arguments


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


# --- tasks


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, code):
    """Provide a folder with one task of each kind and a group of two, and their manager.

    The model writes one answer.
    """
    folder = tmp_path_factory.mktemp("tasks")
    (next_letter,) = MaskedDiffusionLM(*code).generate_until(
        [request("self.x", {"max_gen_toks": 1})]
    )
    answers = {"self.x": next_letter, "im": "@", "def": "@"}
    docs = [{"prompt": prompt, "answer": answer} for prompt, answer in answers.items()]
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))

    def add(name, kind, metrics, **more):
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
            "test_split": "test",
            "output_type": kind,
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": metric} for metric in metrics],
            **more,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML

    add(
        "writes",
        "generate_until",
        ["exact_match"],
        generation_kwargs={"until": ["@"], "max_gen_toks": 1},
    )
    add(
        "misses",
        "generate_until",
        ["ter", "exact_match"],
        generation_kwargs={"until": [], "max_gen_toks": 4},
    )
    add("chooses", "multiple_choice", ["acc"], doc_to_target=0, doc_to_choice=["(self)", "zq#"])
    add("likes", "loglikelihood", ["perplexity", "acc"])
    add(
        "rolls",
        "loglikelihood_rolling",
        ["bits_per_byte"],
        doc_to_text="",
        doc_to_target="{{prompt}}",
    )
    group = {
        "group": "both",
        "task": ["writes", "misses"],
        "aggregate_metric_list": [{"metric": "exact_match"}],
    }
    (folder / "both.yaml").write_text(json.dumps(group))
    return SimpleNamespace(
        folder=folder, manager=TaskManager(include_path=str(folder), include_defaults=False)
    )


def test_lm_eval_runs_it_by_name(tasks):
    names = ["writes", "chooses", "likes", "rolls"]
    arguments = f"pretrained={CODE},schedule=beta(a=0.9,b=0.3),steps=2,mc_num=8,device=cpu"
    results = lm_eval.simple_evaluate(
        "mdm_schedules",
        arguments,
        tasks=names,
        task_manager=tasks.manager,
        batch_size=4,
        bootstrap_iters=10,
    )
    assert results["results"]["chooses"]["acc,none"] == 1
    assert results["results"]["likes"]["acc,none"] == 0  # check_greedy is off
    assert 2 < results["results"]["rolls"]["bits_per_byte,none"] < 6
    said = results["config"]["model_args"]
    assert (said["schedule"], said["steps"], said["mc_num"]) == ("beta(a=0.9, b=0.3)", 2, 8)
    assert results["config"]["forward_passes_per_answer"] == 1  # answers of one token
    assert "|writes" in make_table(results)


def test_objective_gives_one_score_per_document(tasks, code):
    options = {"task_manager": tasks.manager, "batch_size": 2, "remasking": "random"}
    objective = lm_eval_objective(*code, "writes", steps=1, **options)
    scores = objective("linear").values
    assert scores == [1.0, 0.0, 0.0]
    assert objective.results["results"]["writes"]["exact_match,none"] == pytest.approx(
        np.mean(scores)
    )
    assert objective(mdm.Sine(), steps=4).values == scores  # one token, whatever the schedule
    assert lm_eval_objective(*code, "writes", limit=2, **options)("linear").values == scores[:2]
    assert objective("linear", instances=[2, 0]).values == [scores[2], scores[0]]
    assert (objective.num_instances, objective.remasking, objective.model_name) == (
        3,
        "random",
        "code",
    )
    found = mdm.tune(objective, n_trials=2, steps=1, held_out=0)
    assert found.choice.baseline == pytest.approx(1 / 3)
    assert found.trials[0].passes == 3

    both = lm_eval_objective(*code, "both", metric="exact_match", temperature=0.5, **options)
    assert len(both("linear").values) == 6
    texts = [
        [sample["resps"] for sample in both.results["samples"]["misses"]]
        for _ in range(2)
        if both("sine")
    ]
    assert texts[0] == texts[1]  # the same noise in every call

    # translation error rate: less is better, and a corpus has only one
    rate = lm_eval_objective(*code, "misses", **options)
    score = rate("linear")
    assert (rate.metric, rate.higher_is_better, rate.per_document) == ("ter,none", False, False)
    assert mdm.tune(rate, n_trials=1).choice.baseline == score
    assert score == -rate.results["results"]["misses"]["ter,none"] < 0


def test_threads_that_share_an_objective_score_what_they_were_asked_for(tasks, code):
    options = {"task_manager": tasks.manager, "remasking": "random", "temperature": 0.7}
    options |= {"metric": "exact_match", "steps": 6, "max_new_tokens": 8}
    objective = lm_eval_objective(*code, "misses", **options)
    asked = [("linear", 1), ("sine", 2), ("sine", 8), ("beta(a=0.9, b=0.3)", 4)]
    alone = [objective(schedule, steps=steps) for schedule, steps in asked]
    assert [scores.extras["nfe"] for scores in alone] == [1, 2, 8, 4]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda ask: objective(ask[0], steps=ask[1]), asked * 2))
    assert together == alone * 2
    assert objective("linear").extras["nfe"] == 6


def test_objectives_that_make_no_sense(tasks, code, monkeypatch):
    make = functools.partial(lm_eval_objective, *code, task_manager=tasks.manager)
    for name, options, words in (
        ("likes", {}, "no schedule changes"),
        ("writes", {"metric": "exact_mach"}, "known: exact_match,none"),
        ("both", {"metric": "ter"}, "known: exact_match,none"),
        ("writes", {"limit": 0}, "limit must be an integer >= 1"),
        ("writes", {"stepz": 1}, "Did you mean 'steps'"),
        ("wrties", {}, "did you mean writes"),
    ):
        with pytest.raises(MDMError, match=words):
            make(name, **options)
    with pytest.raises(InvalidTypeError, match="'stepz'"):
        make("writes")("linear", stepz=1)
    with pytest.raises(UnknownNameError, match="'linear'"):
        make("writes")("lineer")
    task = tasks.manager.load(["writes"])["tasks"]["writes"]
    monkeypatch.setattr(type(task), "UNSAFE_CODE", True, raising=False)
    with pytest.raises(InvalidValueError, match="allow_code_execution=True"):
        make("writes")
    assert make("writes", allow_code_execution=True, max_new_tokens=1)("linear").values[0] in (0, 1)


SHARE = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM, lm_eval_objective

def share(folder, path):
    manager = TaskManager(include_path=folder, include_defaults=False)
    lm = MaskedDiffusionLM(path, steps=2, temperature=1.0, mc_num=3, device="cpu")
    results = simple_evaluate(lm, tasks=["misses", "rolls"], task_manager=manager, bootstrap_iters=0)
    alone = lm_eval_objective(lm.model, lm.tokenizer, "writes", task_manager=manager)("linear").values
    # of the last request of a short share lm-eval asks for more, to keep step, and uses the first
    answers = results and {
        name: [[each["doc_id"], each["resps"][0][0]] for each in sorted(samples, key=lambda each: each["doc_id"])]
        for name, samples in results["samples"].items()
    }
    return [lm.rank, len(lm.passes), alone, results and results["results"], answers]

if __name__ == "__main__":
    print(json.dumps(share(*sys.argv[1:])))
"""


def within_rounding(value):
    """`value` with bounds around its floats, however deep: batches of other sizes round otherwise."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-6, nan_ok=True)
    if isinstance(value, list):
        return [within_rounding(each) for each in value]
    if isinstance(value, dict):
        return {name: within_rounding(each) for name, each in value.items()}
    return value


@pytest.mark.slow
def test_processes_share_the_requests_and_the_first_has_the_results(tasks, tmp_path):
    (tmp_path / "share.py").write_text(SHARE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        joined = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
        }
    joined |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(tmp_path / "share.py"), str(tasks.folder), CODE]
    running = [
        subprocess.Popen(
            words,
            env={**os.environ, **joined, "RANK": rank, "LOCAL_RANK": rank},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    answers = []
    for process in running:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        answers.append(json.loads(out.splitlines()[-1]))
    alone = json.loads(
        json.dumps(runpy.run_path(str(tmp_path / "share.py"))["share"](str(tasks.folder), CODE))
    )
    assert alone == [0, 3, [1.0, 0.0, 0.0], *within_rounding(answers[0][3:])]
    assert answers[0][:3] == [0, 2, alone[2]]
    assert answers[1] == [1, 2, alone[2], None, None]


# --- the command


@pytest.fixture
def run(capsys, tasks, monkeypatch):
    """Run `mdm-schedules eval` with the tasks above only; indexing lm-eval's takes seconds."""
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager", functools.partial(TaskManager, include_defaults=False)
    )

    def command(*words):
        status = main(["eval", "--include-path", str(tasks.folder), *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def test_eval_prints_a_table_and_writes_the_results(run, tmp_path):
    words = [
        "--tasks",
        "both,chooses",
        "--schedule",
        "beta(a=0.9, b=0.3)",
        "--steps",
        2,
        "--mc-num",
        3,
    ]
    status, out, _ = run(
        *words, "--batch-size", 2, "--log-samples", "--output", tmp_path, "--max-new-tokens", 4
    )
    assert status == 0
    assert out.startswith("|")
    rows = [line.split("|")[1].strip() for line in out.splitlines()]
    assert rows == [
        "Tasks",
        "-" * 9,
        "both",
        "- misses",
        "",
        "- writes",
        "chooses",
        "Groups",
        "------",
        "both",
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["config"]["model_args"]["schedule"] == "beta(a=0.9, b=0.3)"
    assert len(results["samples"]["writes"]) == 3
    status, out, _ = run(
        "--tasks", "misses", "--limit", 2, "--json", "--output", tmp_path / "x.json"
    )
    shown = json.loads(out)
    assert (status, shown["n-samples"]["misses"]["effective"], "samples" in shown) == (0, 2, False)
    assert json.loads((tmp_path / "x.json").read_text()) == shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "x.json"]


def test_eval_refuses_values_of_flags_as_wrong_usage(run, tasks, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--tasks", "writes", "--steps", "0")
    assert caught.value.code == 2
    assert "--steps must be an integer >= 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--tasks wrties", "lm-eval has no task 'wrties'; did you mean writes"),
        ("--tasks ,", "no tasks were given"),
        ("--tasks writes --limit 0", "--limit must be an integer >= 1"),
        ("--tasks writes --output no/such/x.json", "cannot write 'no/such/x.json'"),
        ("--tasks writes --schedule lineer", "Did you mean 'linear'"),
        ("--tasks writes --max-new-tokens 200", "leaves no room for the prompt"),
        ("--tasks writes --apply-chat-template", "no chat template"),
        ("--tasks writes --model sudoku", "the tokenizer cannot read"),
        ("--tasks writes --model no/such", "cannot load no/such"),
        ("--tasks lost", "cannot load the task lost"),
        ("--tasks writes,lost.yaml", "lm-eval has no task 'lost.yaml'"),
    ],
)
def test_eval_tells_errors_in_one_line(run, tasks, words, said):
    lost = {
        "task": "lost",
        "dataset_path": "nobody/nothing",
        "test_split": "test",
        "doc_to_text": "x",
        "doc_to_target": "y",
    }
    (tasks.folder / "lost.yaml").write_text(json.dumps(lost))
    status, out, err = run(*words.split())
    assert (status, out) == (1, "")
    (line,) = [line for line in err.splitlines() if line.startswith("mdm-schedules:")]
    assert said in line
    assert "Traceback" not in err
