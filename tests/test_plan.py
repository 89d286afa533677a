"""Plans: integers with the right sum, no wasted pass, halves up, the same for one row or many."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.plan import MAX_STEPS, MAX_TOKENS, check_plan, share_out
from mdm_schedules.schedules import (
    Beta,
    Cosine,
    Linear,
    Polynomial,
    Schedule,
    SquaredSine,
    Tabulated,
)

quick = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
NAMES = [
    "linear",
    "sine",
    "squared_sine",
    "cosine",
    "polynomial(p=7)",
    "polynomial(p=0.1)",
    "geometric",
    "beta(a=0.9, b=0.3)",
    "beta(a=0.05, b=5)",
    "beta(a=100, b=100)",
    "tabulated(alpha=(0, 0.999, 1))",
]
a_schedule = st.sampled_from([mdm.get_schedule(name) for name in NAMES])


def by_hand(schedule: Schedule, tokens: int, steps: int, allow_empty: bool) -> list[int]:
    """Apply the rule step by step.

    Rounding is cumulative; a step takes at least one token and leaves one for each later pass.
    """
    done, plan = 0, []
    for step in range(1, steps + 1):
        target = math.floor(tokens * schedule.alpha(step / steps) + 0.5 + 1e-9)
        if not allow_empty:
            target = max(target, done + 1)
            target = min(
                target,
                tokens - (min(steps, tokens) - step) if step < min(steps, tokens) else tokens,
            )
        target = min(max(target, done), tokens)
        plan.append(target - done)
        done = target
    return plan


@pytest.mark.slow
@quick
@given(a_schedule, st.integers(0, 300), st.integers(1, 300), st.booleans())
def test_plans_against_the_rule_written_as_a_loop(
    schedule: Schedule, tokens: int, steps: int, empty: bool
) -> None:
    plan = schedule.plan(tokens, steps, allow_empty=empty)
    assert (plan.dtype, plan.shape, plan.device.type) == (torch.long, (steps,), "cpu")
    assert int(plan.sum()) == tokens
    assert int(plan.min()) >= 0
    assert plan.tolist() == by_hand(schedule, tokens, steps, empty)
    if not empty:
        passes = min(tokens, steps)
        assert bool((plan[:passes] >= 1).all())
        assert bool((plan[passes:] == 0).all())
        if tokens <= steps:
            assert plan.tolist() == [1] * tokens + [0] * (steps - tokens)


@quick
@given(a_schedule, st.integers(0, 10_000), st.integers(1, 200))
def test_allow_empty_is_the_plain_rounding_of_the_paper(
    schedule: Schedule, tokens: int, steps: int
) -> None:
    alpha = [schedule.alpha(step / steps) for step in range(steps + 1)]
    # exact arithmetic on the float values of alpha, away from halves that differ by float error
    # only
    exact = [Fraction(value) * tokens for value in alpha]
    near_half = [abs(value - math.floor(value) - Fraction(1, 2)) < 1e-8 for value in exact]
    right = [
        math.ceil(x) if half else math.floor(x + Fraction(1, 2))
        for x, half in zip(exact, near_half, strict=True)
    ]
    assert schedule.plan(tokens, steps, allow_empty=True).tolist() == np.diff(right).tolist()


@quick
@given(a_schedule, st.integers(1, 5000), st.integers(1, 300))
def test_where_rounding_leaves_no_step_empty_nothing_is_changed(
    schedule: Schedule, tokens: int, steps: int
) -> None:
    plain = schedule.plan(tokens, steps, allow_empty=True)
    if bool((plain > 0).all()):
        assert torch.equal(schedule.plan(tokens, steps), plain)


@quick
@given(a_schedule, st.lists(st.integers(0, 400), max_size=40), st.integers(1, 64), st.booleans())
def test_many_rows_are_planned_as_each_alone(
    schedule: Schedule, counts: list[int], steps: int, empty: bool
) -> None:
    plan = schedule.plan(torch.tensor(counts, dtype=torch.long), steps, allow_empty=empty)
    assert plan.shape == (len(counts), steps)
    assert plan.dtype == torch.long
    assert plan.tolist() == [
        schedule.plan(count, steps, allow_empty=empty).tolist() for count in counts
    ]


def test_halves_go_up() -> None:
    assert Linear().plan(5, 2).tolist() == [3, 2]
    assert Linear().plan(1, 2, allow_empty=True).tolist() == [1, 0]
    assert Linear().plan(6, 4, allow_empty=True).tolist() == [2, 1, 2, 1]
    assert Linear().plan(3, 6, allow_empty=True).tolist() == [1, 0, 1, 0, 1, 0]
    assert Beta(0.5, 0.5).plan(5, 2).tolist() == [3, 2]
    # float error must not tip a half down: 45 * 0.7 and the like
    for tokens in range(1, 60):
        for steps in range(1, 60):
            right = [(2 * tokens * i + steps) // (2 * steps) for i in range(steps + 1)]
            assert (
                Linear().plan(tokens, steps, allow_empty=True).tolist() == np.diff(right).tolist()
            )


def test_examples() -> None:
    assert Linear().plan(256, 16).tolist() == [16] * 16
    assert Cosine().plan(10, 4).tolist() == [1, 2, 3, 4]
    assert SquaredSine().plan(0, 3).tolist() == [0, 0, 0]
    assert Polynomial(50).plan(8, 4).tolist() == [1, 1, 1, 5]
    assert Polynomial(50).plan(8, 4, allow_empty=True).tolist() == [0, 0, 0, 8]
    assert Polynomial(0.01).plan(8, 4).tolist() == [5, 1, 1, 1]
    assert Tabulated([0, 0.999, 1]).plan(4, 2).tolist() == [3, 1]
    assert Linear().plan(7, 1).tolist() == [7]


def test_dtypes_zeros_and_steps_of_many_kinds() -> None:
    right = [[0, 0, 0], [1, 0, 0], [2, 1, 2]]
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        counts = torch.tensor([0, 1, 5], dtype=dtype)
        assert Linear().plan(counts, 3).tolist() == right
        assert counts.tolist() == [0, 1, 5]
    for steps in (3, np.int64(3), np.uint8(3), torch.tensor(3)):
        assert Linear().plan(5, steps).tolist() == right[2]  # type: ignore[arg-type]
    assert Linear().plan(np.int32(5), 3).tolist() == right[2]  # type: ignore[arg-type]
    assert Linear().plan(torch.empty(0, dtype=torch.long), 3).shape == (0, 3)
    assert Linear().plan(torch.tensor([5, 9, 1])[::2], 3).tolist() == [right[2], right[1]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_of_the_counts_is_kept() -> None:
    plan = Beta(0.9, 0.3).plan(torch.tensor([0, 7, 256], device="cuda"), 16)
    assert plan.device.type == "cuda"
    assert torch.equal(plan.cpu(), Beta(0.9, 0.3).plan(torch.tensor([0, 7, 256]), 16))


def test_torchs_default_device_does_not_matter() -> None:
    counts = torch.tensor([3, 5])
    with torch.device("meta"):
        assert Linear().plan(5, 2).tolist() == [3, 2]
        assert Linear().plan(counts, 2).tolist() == [[2, 1], [3, 2]]


def test_a_hundred_thousand_rows_and_millions_of_steps() -> None:
    counts = torch.randint(0, 257, (100_000,), generator=torch.Generator().manual_seed(0))
    plan = Beta(0.9, 0.3).plan(counts, 128)
    assert plan.shape == (100_000, 128)
    assert torch.equal(plan.sum(1), counts)
    assert torch.equal((plan > 0).sum(1), counts.clamp(max=128))
    many = Linear().plan(10, 1 << 21)
    assert many.sum() == 10
    assert many[:10].tolist() == [1] * 10


@pytest.mark.parametrize("name", NAMES)
def test_astronomic_counts_still_sum(name: str) -> None:
    schedule = mdm.get_schedule(name)
    for tokens in (MAX_TOKENS, MAX_TOKENS - 1, 10**12 + 7):
        for empty in (False, True):
            plan = schedule.plan(tokens, 37, allow_empty=empty)
            assert sum(plan.tolist()) == tokens
            assert min(plan.tolist()) >= (0 if empty else 1)


def test_an_alpha_that_wavers_gives_no_negative_step() -> None:
    """A curve that is flat up to float error may fall by an ulp, here across a half."""
    wavering = {0.25: 0.5, 0.5: 0.5 - 1e-6, 0.75: 0.5}
    parts = {
        "name": "wavering",
        "_alpha": lambda self, t: torch.tensor(
            [wavering.get(float(x), float(x)) for x in t], dtype=torch.float64
        ),
        "_alpha_dot": lambda self, t: torch.ones_like(t),
    }
    schedule = dataclasses.dataclass(frozen=True, repr=False)(
        type("Wavering", (Schedule,), parts)
    )()
    assert schedule.plan(1, 4, allow_empty=True).tolist() == [1, 0, 0, 0]


def test_share_out() -> None:
    """`plan` is made of this: it takes any increasing fractions that end at 1."""
    thirds = torch.tensor([1 / 3, 2 / 3, 1.0], dtype=torch.float64)
    assert share_out(thirds, torch.tensor([4, 0, 2])).tolist() == [[1, 2, 1], [0, 0, 0], [1, 1, 0]]
    assert share_out(thirds, torch.tensor([2]), allow_empty=True).tolist() == [[1, 0, 1]]


# --- bad input


@pytest.mark.parametrize("steps", [0, -1, MAX_STEPS + 1, 10**400])
def test_steps_out_of_range(steps: int) -> None:
    with pytest.raises(
        InvalidValueError,
        match=r"steps must be an integer in \[1, 16777216\], got .*schedule\.plan\(",
    ):
        Linear().plan(10, steps)


@pytest.mark.parametrize(
    "bad", [2.0, "2", None, True, [2], np.True_, torch.tensor(True), torch.tensor(2.0), math.nan]
)
def test_steps_and_tokens_that_are_no_integers(bad: object) -> None:
    with pytest.raises(InvalidTypeError, match="steps must be an integer"):
        Linear().plan(10, bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="num_tokens must be an int"):
        Linear().plan(bad, 2)  # type: ignore[arg-type]


def test_bad_token_counts() -> None:
    with pytest.raises(InvalidValueError, match=r"num_tokens must be .* got -1"):
        Linear().plan(-1, 2)
    with pytest.raises(InvalidValueError, match="num_tokens must be >= 0, got -3"):
        Linear().plan(torch.tensor([1, -3]), 2)
    for huge in (MAX_TOKENS + 1, 2**63 - 1, 2**70):
        with pytest.raises(InvalidValueError, match="num_tokens must be"):
            Linear().plan(huge, 2)
    with pytest.raises(InvalidValueError, match="num_tokens must be at most"):
        Linear().plan(torch.tensor([1, 2**63 - 1]), 2)
    for tensor in (
        torch.ones(2),
        torch.ones(2, dtype=torch.bool),
        torch.tensor([1j]),
        torch.tensor([[1]]),
        torch.tensor(1),
    ):
        with pytest.raises(
            InvalidTypeError, match=r"num_tokens must be an int or an integer tensor \[B\], got"
        ):
            Linear().plan(tensor, 2)


# --- plans given by users


def test_check_plan_accepts_what_sums() -> None:
    counts = torch.tensor([3, 3])
    for plan in (
        [1, 2],
        (1, 2),
        np.array([1, 2], dtype=np.int32),
        torch.tensor([1, 2], dtype=torch.uint8),
    ):
        table = check_plan(plan, counts)
        assert table.dtype == torch.long
        assert table.tolist() == [[1, 2], [1, 2]]
    assert check_plan([[3, 0], [1, 4]], torch.tensor([3, 5])).tolist() == [[3, 0], [1, 4]]
    assert check_plan([0], torch.tensor([0])).tolist() == [[0]]
    schedule = Beta(0.9, 0.3)
    assert torch.equal(check_plan(schedule.plan(counts, 4), counts), schedule.plan(counts, 4))


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ([1, 1], InvalidValueError, "row 0 sums to 2, but 3 tokens are masked"),
        ([[1, 2], [1, 1]], InvalidValueError, "row 1 sums to 2, but 3 tokens are masked"),
        ([4, -1], InvalidValueError, "negative number of tokens, got -1"),
        ([[3]], InvalidValueError, r"\[steps\] or \[2, steps\], got shape \(1, 1\)"),
        ([[[3]], [[3]]], InvalidValueError, "got shape"),
        ([[], []], InvalidTypeError, "integers"),
        (torch.zeros(2, 0, dtype=torch.long), InvalidValueError, "got shape"),
        (3, InvalidValueError, "got shape"),
        ([1.0, 2.0], InvalidTypeError, "must hold integers, got torch.float32"),
        ([True, True], InvalidTypeError, "must hold integers, got torch.bool"),
        ([1j], InvalidTypeError, "must hold integers"),
        ([], InvalidTypeError, "must hold integers"),
        ("12", InvalidTypeError, "integers .* got str"),
        (None, InvalidTypeError, "got NoneType"),
        ({1: 2}, InvalidTypeError, "got dict"),
        ([[1, 2], [3]], InvalidTypeError, "got list"),
        ([10**30], InvalidTypeError, "got list"),
        (np.array(["3"]), InvalidTypeError, "got ndarray"),
        # wraps around to 3
        ([2**62, 2**62, 2**62, 2**62, 3], InvalidValueError, f"sums to {2**64 + 3}"),
        (torch.zeros(2, device="meta", dtype=torch.long), InvalidTypeError, "got Tensor"),
    ],
)
def test_check_plan_refuses(plan: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_plan(plan, torch.tensor([3, 3]))
