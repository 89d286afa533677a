"""The draws that a run uses, general and fast, against the one that is easy to check."""

import pytest
import torch
from places import places

from mdm_schedules.sampling import DrawOptions, get_policy, policies
from mdm_schedules.sampling.draw import TokenDraw
from mdm_schedules.sampling.exact import draw_exactly, filtered
from mdm_schedules.sampling.segments import SEGMENT

ROWS, MASK = 48, 5
FILTERS = {
    "none": {},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.7},
    "both": {"top_k": 20, "top_p": 0.9},
    "suppressed": {"suppress_tokens": [0, 3, 6]},
    "processor": {"logits_processor": lambda ids, scores: scores * 0.5 + ids[:, :1]},
    # raises again what is to stay out
    "both_out": {
        "suppress_tokens": [0, 3, 6],
        "logits_processor": lambda ids, scores: scores.clamp(min=9),
    },
}


def logits_of(vocabulary, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(ROWS, vocabulary, generator=generator, dtype=torch.float64) * 2
    logits[:6, MASK] = torch.tensor([20.0, 40.0, 80.0, 200.0, 1e4, -1e4])
    return logits.to(dtype)


def both(logits, options, policy, index=None, seed=0):
    """The run's answer and the exact one, with the uniform numbers."""
    wanted = logits if index is None else logits[index]
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(len(wanted), dtype=torch.float64, generator=generator)
    uniform = uniform if options.temperature else None
    ids = torch.arange(len(wanted))[:, None]
    policy = get_policy(policy)
    draw = TokenDraw(options, policy, MASK)
    where = places(len(wanted))
    ours = draw(logits, index, uniform, lambda i, j: ids[i:j], where)
    exact = draw_exactly(wanted, options, policy, MASK, uniform, ids, where)
    return ours, exact, uniform, draw.fast


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("policy", policies.names())
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_run_draws_and_scores_as_written_down(dtype, temperature, policy, filters):
    options = DrawOptions(temperature, **FILTERS[filters])
    some = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))[:30]
    for vocabulary, index in ((9, None), (SEGMENT + 40, some)):
        logits = logits_of(vocabulary, dtype)
        (tokens, score, usable), (exact, exact_score, exact_usable), uniform, fast = both(
            logits, options, policy, index
        )
        assert (fast is not None) == (
            temperature in (0, 1)
            and filters in ("none", "suppressed")
            and policy not in ("margin", "entropy")
        )
        assert torch.equal(usable, exact_usable)
        # tokens: the same, but where the number lies on the edge between two
        differs = tokens != exact
        if temperature == 0 and filters != "processor":  # which computes in the dtype it is given
            assert not differs.any()
        else:
            assert int(differs.sum()) <= 1
        if differs.any():
            assert_on_an_edge(logits if index is None else logits[index], options, tokens, uniform)
        # scores
        if score is None:
            assert exact_score is None
            continue
        close = 1e-11 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(
            score[~differs].double(), exact_score[~differs], rtol=close, atol=close / 10
        )


def assert_on_an_edge(logits, options, tokens, uniform, slack=1e-6):
    """Each token's part of the unit interval holds its row's number, up to rounding."""
    allowed = logits.double().index_fill(1, torch.tensor([*options.suppress_tokens, MASK]), -9e99)
    probs = filtered(allowed - allowed.amax(1, keepdim=True), options)
    above = probs.cumsum(1).gather(1, tokens[:, None])[:, 0]
    below = above - probs.gather(1, tokens[:, None])[:, 0]
    assert ((below - slack <= uniform) & (uniform <= above + slack)).all()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_long_rows_are_drawn_and_scored_as_written_down(temperature):
    """Rows that the fast draw reads in place, and more of them than it works on at once."""
    logits = logits_of(20_011, torch.float32, seed=3)
    for index in (None, torch.arange(3, 40)):
        (tokens, score, usable), (exact, exact_score, _), uniform, _ = both(
            logits, DrawOptions(temperature), "low_confidence", index
        )
        assert usable.all()
        differs = tokens != exact
        assert int(differs.sum()) <= int(temperature > 0)
        if temperature:
            wanted = logits if index is None else logits[index]
            assert_on_an_edge(wanted, DrawOptions(temperature), tokens, uniform)
        # one float32 sum of 20,011 numbers, of which nearly all are far below the mask's
        torch.testing.assert_close(
            score[~differs].double(), exact_score[~differs], rtol=1e-4, atol=0
        )


@pytest.mark.parametrize("policy", policies.names())
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_all_agree_on_which_rows_cannot_be_read(temperature, policy):
    logits = torch.zeros(6, 9)
    logits[0, MASK], logits[1, MASK] = torch.nan, torch.inf
    logits[2, 3], logits[3, 3], logits[4] = torch.nan, torch.inf, -torch.inf
    ours, exact, *_ = both(logits, DrawOptions(temperature), policy)
    assert ours[2].tolist() == exact[2].tolist() == [False] * 5 + [True]
