"""Likelihood bounds: exact where they can be, unbiased elsewhere."""

import functools
import itertools
import math

import families
import numpy as np
import pytest
import torch
from lm_eval_cases import MASK, WORDS, inconsistent, request, tiny, words

from mdm_schedules.errors import (
    InvalidValueError,
)
from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM
from mdm_schedules.integrations.lm_eval.likelihood import Piece, patterns, pieces


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
    asked = [
        request(f"x{'y' * (i % 3)} = ", "self.value(key, other=None)" + "s" * (i % 4))
        for i in range(6)
    ] + [request("", "pass")]
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
    ids = tokenizer("def __init__(", return_tensors="pt", add_special_tokens=False).input_ids
    written = tokenizer.decode(model.generate(ids, max_new_tokens=5).sequences[0, ids.shape[1] :])
    wrong = ("a" if written[0] != "a" else "b") + written[1:]
    asked = [request("def __init__(", text) for text in (written, wrong)]
    assert [same for _, same in lm.loglikelihood(asked)] == [True, False]
    assert lm.passes == []
