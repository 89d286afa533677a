"""Profiles: the exact cost of a plan against the enumerated law, the best plan and Beta, files."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mdm_schedules as mdm
from mdm_schedules import InformationProfile
from mdm_schedules.errors import FormatError, InvalidTypeError, InvalidValueError, StorageError
from mdm_schedules.information import ancestral_divergence, plan_divergence
from mdm_schedules.information.curves import project
from mdm_schedules.information.plans import optimal_plans, plan_cost
from mdm_schedules.sampling import DrawOptions, sample

ROOT = Path(__file__).parents[2]


def example(path):
    """Import a script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "examples" / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = example("paper/toy.py")
TARGETS = toy.targets()
PLANS = [plan for plan in itertools.product(range(6), repeat=3) if sum(plan) == 5]


def entropy(p):
    return float(scipy.special.entr(p).sum())


def brute_profile(p):
    """Compute h(n) from its definition: one more token, given every set of n others."""
    n, h = p.ndim, []
    for known in range(n):
        terms = []
        for subset in itertools.combinations(range(n), known):
            for token in set(range(n)) - set(subset):
                joint = p.sum(tuple(i for i in range(n) if i not in (*subset, token)))
                given = p.sum(tuple(i for i in range(n) if i not in subset))
                terms.append(entropy(joint) - entropy(given))
        h.append(np.mean(terms))
    return h


profiles = st.lists(st.floats(0, 3), min_size=1, max_size=9).map(
    lambda h: np.array(sorted(h, reverse=True))
)


# -- the exact cost
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 4), (3, 1), (2, 3), (4, 2), (3, 3)])
def test_profile_of_a_distribution_is_its_definition(n, d):
    p = np.random.default_rng(n).random([d] * n) ** 3
    p = p / p.sum()
    profile = InformationProfile.from_distribution(p)
    np.testing.assert_allclose(profile.h, brute_profile(p), atol=1e-13)
    assert profile.entropy == pytest.approx(entropy(p), abs=1e-12)
    assert profile.cost([n]) == pytest.approx(n * brute_profile(p)[0] - entropy(p), abs=1e-12)
    assert profile.cost([1] * n) == 0


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("plan", PLANS)
def test_cost_of_every_plan_is_the_enumerated_divergence_of_the_loop(name, plan):
    predicted = InformationProfile.from_distribution(TARGETS[name]).cost(plan)
    given_order, marginal = toy.random_order(TARGETS[name], list(plan))
    assert predicted == pytest.approx(given_order, abs=1e-10)
    assert marginal <= given_order + 1e-12
    if name == "B" and plan == (3, 1, 1):
        assert abs(marginal) < 1e-12


@pytest.mark.parametrize(
    ("name", "best", "cost", "linear"),
    [("A", [1, 1, 3], 0, math.log(2)), ("B", [3, 1, 1], 0.07246, 0.17711)],
)
def test_the_toys_of_the_paper(name, best, cost, linear):
    assert len(PLANS) == 21
    profile = InformationProfile.from_distribution(TARGETS[name])
    assert profile.optimal_plan(3).tolist() == best
    assert profile.cost(best) == pytest.approx(cost, abs=5e-6)
    assert profile.cost(best) == pytest.approx(min(profile.cost(plan) for plan in PLANS), abs=1e-14)
    assert profile.cost(mdm.Linear().plan(5, 3)) == pytest.approx(linear, abs=5e-6)


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("spec", ["linear", "beta(a=0.9, b=0.3)"])
def test_ancestral_costs_the_mean_over_the_plans_that_come_out(name, spec):
    """The counts are then multinomial.

    Given the counts the positions are in random order, so the same formula holds for each.
    """
    schedule, profile = mdm.get_schedule(spec), InformationProfile.from_distribution(TARGETS[name])
    widths = np.diff([schedule.alpha(i / 3) for i in range(4)])
    mean = 0.0
    for plan in PLANS:
        ways = math.factorial(5) / math.prod(math.factorial(k) for k in plan)
        mean += ways * np.prod(widths ** np.array(plan)) * profile.cost(plan)
    enumerated, marginal = toy.ancestral(TARGETS[name], schedule, 3)
    assert enumerated == pytest.approx(mean, abs=1e-10)
    assert marginal <= enumerated
    assert enumerated >= profile.cost(profile.optimal_plan(3)) + 0.1


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("plan", [(3, 1, 1), (1, 1, 3), (5, 0, 0), (0, 2, 3), (1, 1, 1, 1, 1)])
def test_both_divergences_of_a_plan_are_those_of_the_enumerated_loop(name, plan):
    given_order, marginal = plan_divergence(TARGETS[name], plan)
    expected = toy.random_order(TARGETS[name], list(plan))
    assert (given_order, marginal) == pytest.approx(expected, abs=1e-10)
    cost = InformationProfile.from_distribution(TARGETS[name]).cost(plan)
    assert given_order == pytest.approx(cost, abs=1e-12)


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize(("spec", "steps"), [("linear", 3), ("beta(a=0.9, b=0.3)", 3), ("sine", 1)])
def test_both_divergences_of_ancestral_sampling_are_those_of_the_enumerated_loop(name, spec, steps):
    expected = toy.ancestral(TARGETS[name], mdm.get_schedule(spec), steps)
    assert ancestral_divergence(TARGETS[name], spec, steps) == pytest.approx(expected, abs=1e-10)


def test_the_cost_is_an_upper_bound_that_the_samplers_law_may_stay_well_below():
    """The targets are toy B, and six tokens of a sticky chain with two states."""
    given_order, marginal = plan_divergence(TARGETS["B"], [3, 1, 1])
    assert (given_order, marginal) == pytest.approx((0.07246, 0), abs=5e-6)
    stay = np.array([[0.9, 0.1], [0.1, 0.9]])
    p = np.full(2, 0.5)
    for _ in range(5):
        p = p[..., None] * stay
    given_order, marginal = plan_divergence(p, [1, 2, 3])
    assert 0 < marginal < 0.5 * given_order
    assert given_order == pytest.approx(InformationProfile.from_distribution(p).cost([1, 2, 3]))


@pytest.mark.parametrize("plan", [[2, 1, 2], [3, 1, 1]])
def test_random_draws_of_the_loop_follow_the_enumerated_law(plan):
    """At temperature 1 the law of `remasking="random"` is the enumeration's mean over orders."""
    p, number = TARGETS["B"], 8_000
    support, sentences = p.nonzero(), torch.cartesian_prod(*[torch.arange(2)] * 5)
    ranks = torch.tensor(list(itertools.permutations(range(5))))

    def posterior(tokens, rows):
        row, column = rows // 5, rows % 5
        agree = ((tokens[row][:, None] == support) | (tokens[row][:, None] == 2)).all(2).double()
        ones = (agree * support[:, column].T).sum(1) / agree.sum(1)
        return torch.stack([1 - ones, ones], 1).log()

    out = sample(
        posterior,
        torch.full((number, 5), 2),
        mask_token_id=2,
        plan=plan,
        remasking="random",
        draw=DrawOptions(temperature=1.0),
        seed=1,
    )
    counts = torch.bincount((out.sequences * torch.tensor([16, 8, 4, 2, 1])).sum(1), minlength=32)
    # the library's loop again, for all sentences, with those outside the target allowed
    tokens = sentences.repeat(len(ranks), 1)
    teacher = toy.Teacher(p, tokens)
    sample(
        teacher,
        torch.full_like(tokens, 2),
        mask_token_id=2,
        plan=plan,
        remasking=toy.Ranked(ranks.repeat_interleave(32, 0)),
        seed=0,
    )
    law = teacher.logp.nan_to_num(-math.inf, neginf=-math.inf).reshape(len(ranks), 32).exp().mean(0)
    assert law.sum() == pytest.approx(1, abs=1e-12)
    assert not counts[law == 0].any()
    expected = number * law[law > 0]
    chi2 = ((counts[law > 0] - expected) ** 2 / expected).sum()
    assert chi2 < len(expected) + 5 * math.sqrt(2 * len(expected))


# -- what follows from a profile
# -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(profiles, st.data())
def test_optimal_plan_is_the_best_of_all(h, data):
    n = len(h)
    steps = data.draw(st.integers(1, n))
    bounds = [(0, *cuts, n) for cuts in itertools.combinations(range(1, n), steps - 1)]
    least = min(plan_cost(h, np.diff(ends)) for ends in bounds)
    plan = InformationProfile(h).optimal_plan(steps)
    assert plan.dtype == torch.long
    assert int(plan.sum()) == n
    assert int(plan.min()) >= 1
    assert plan_cost(h, plan) == pytest.approx(least, abs=1e-12)
    others = optimal_plans(h, range(1, n + 1))  # all at once, as one by one
    assert plan_cost(h, others[steps]) == pytest.approx(least, abs=1e-12)


def test_optimal_plan_of_a_long_profile():
    n, steps = 4096, 64
    h = 3 * np.exp(-np.arange(n) / 400)
    plan = InformationProfile(h).optimal_plan(steps).numpy()
    # a local change of any boundary costs more
    cost = plan_cost(h, plan)
    for i in range(steps - 1):
        for move in (-1, 1):
            moved = plan.copy()
            moved[i] += move
            moved[i + 1] -= move
            assert moved.min() < 1 or plan_cost(h, moved) >= cost - 1e-9
    # the continuous limit: (integral of |h'|^(1/2))^2 / (2 steps)
    limit = 3 / 400 * (800 * (1 - math.exp(-n / 800))) ** 2 / (2 * steps)
    assert cost == pytest.approx(limit, rel=0.02)


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(st.lists(st.floats(0, 3), min_size=4, max_size=40), st.integers(2, 4))
def test_fitted_beta_is_never_above_the_papers_grid(values, steps):
    profile = InformationProfile(sorted(values, reverse=True))
    n = profile.num_tokens
    cost = profile.cost(profile.fit_beta(steps).plan(n, steps))
    grid = [mdm.Beta(a / 10, b / 10) for a in range(1, 11) for b in range(1, 11)]
    assert cost <= min(profile.cost(beta.plan(n, steps)) for beta in grid) + 1e-9
    assert cost >= profile.cost(profile.optimal_plan(steps)) - 1e-9


def test_where_all_plans_cost_the_same_the_fit_is_linear():
    for h in ([1.0], [0.7] * 8, [0.0] * 8):
        profile = InformationProfile(h)
        assert profile.fit_beta(1) == mdm.Beta(0.5, 0.5)
        assert profile.schedule() == mdm.Linear()
    assert InformationProfile([0.7] * 8).fit_beta(4) == mdm.Beta(0.5, 0.5)


@settings(deadline=None, max_examples=40)
@given(profiles, st.data())
def test_schedule_for_one_number_of_steps_is_the_best_plan(h, data):
    profile = InformationProfile(h)
    steps = data.draw(st.integers(1, len(h)))
    assert (
        profile.schedule(steps).plan(len(h), steps).tolist() == profile.optimal_plan(steps).tolist()
    )


@pytest.mark.parametrize(
    "h",
    [
        3 * np.exp(-np.arange(64) / 6),
        1 - np.linspace(0, 1, 64) ** 8,
        np.where(np.arange(64) < 20, 2.0, 0.5),
        np.linspace(2, 1, 64),
        np.array([1.0, 0.0]),
    ],
)
def test_one_schedule_is_near_the_best_plan_at_every_number_of_steps(h):
    profile, n = InformationProfile(h), len(h)
    schedule = profile.schedule()
    linear = mdm.Linear()
    for steps in (2, 5, 8, 12, 16, 32):
        if steps <= n:
            least = profile.cost(profile.optimal_plan(steps))
            cost = profile.cost(schedule.plan(n, steps))
            assert cost <= max(1.35 * least, 0.02 * profile.entropy, least + 1e-9)
            assert cost <= profile.cost(linear.plan(n, steps)) * 1.1 + 1e-9
    mdm_again = mdm.get_schedule(repr(schedule))
    assert mdm_again == schedule


# -- what comes in and out
# -----------------------------------------------------------------------------------------


def test_a_rising_profile_is_projected_and_said_so():
    with pytest.warns(UserWarning, match=r"h rises \(by 1 nats from 1 to 2 revealed"):
        profile = InformationProfile([3.0, 1.0, 2.0, 0.5])
    assert profile.values == (3.0, 1.5, 1.5, 0.5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=12), st.data())
def test_projection_is_monotone_and_nearest(values, data):
    values = np.array(values)
    near = project(values)
    assert (np.diff(near) <= 0).all()
    assert near.sum() == pytest.approx(values.sum(), abs=1e-9)
    other = np.sort(
        np.array(data.draw(st.lists(st.floats(0, 5), min_size=len(values), max_size=len(values))))
    )[::-1]
    assert ((near - values) ** 2).sum() <= ((other - values) ** 2).sum() + 1e-9


def test_profiles_are_values(tmp_path):
    profile = InformationProfile(torch.tensor([2, 1, 0.5], dtype=torch.bfloat16))
    assert profile == InformationProfile([2, 1, 0.5])
    assert len({profile, InformationProfile([2, 1, 0.5])}) == 1
    assert (profile.num_tokens, profile.entropy) == (3, 3.5)
    profile.h[0] = 7
    assert profile.h.tolist() == [2, 1, 0.5]
    assert "3 tokens, 2 to 0.5 nats" in repr(profile)
    profile.save_pretrained(tmp_path / "new" / "folder")
    assert InformationProfile.from_pretrained(tmp_path / "new" / "folder") == profile


def test_files_that_are_no_profile(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(StorageError, match="no profile at"):
        InformationProfile.from_pretrained(tmp_path)
    InformationProfile([2.0, 1.0]).save_pretrained(tmp_path)
    file = tmp_path / "profile.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(FormatError, match="not a whole safetensors file"):
        InformationProfile.from_pretrained(tmp_path)
    good = '{"format_version": "1.0", "measurement": null}'
    measured = good.replace("null", '{"counts": [0, 1], "means": 3}')
    for h, header in (
        ([2.0, 1.0], None),
        ([2.0, 1.0], "[]"),
        ([2.0, 1.0], "{"),
        ([2.0, 1.0], good.replace("1.0", "2.0")),
        ([2.0, 1.0], measured),
        ([1.0, 2.0], good),
        ([2.0, -1.0], good),
        ([2.0, math.nan], good),
        ([], good),
    ):
        metadata = None if header is None else {"information_profile": header}
        save_file({"h": torch.tensor(h, dtype=torch.float64)}, file, metadata)
        with pytest.raises(FormatError, match="profile"):
            InformationProfile.from_pretrained(tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError):
        InformationProfile([1.0]).save_pretrained(blocked)


FULL = InformationProfile([3.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: InformationProfile.from_distribution([0.5, 0.6]),
            InvalidValueError,
            "sum to 1.*1.1",
        ),
        (lambda: InformationProfile.from_distribution([1.5, -0.5]), InvalidValueError, "-0.5"),
        (lambda: InformationProfile.from_distribution([1.0, math.nan]), InvalidValueError, "nan"),
        (
            lambda: InformationProfile.from_distribution(torch.ones(2, 3) / 6),
            InvalidValueError,
            r"\(2, 3\)",
        ),
        (lambda: InformationProfile.from_distribution("p"), InvalidTypeError, "torch.full"),
        (
            lambda: InformationProfile.from_distribution(np.full([2] * 18, 0.5**18)),
            InvalidValueError,
            "387420489.*estimate",
        ),
        (lambda: InformationProfile([]), InvalidValueError, "1 to"),
        (lambda: InformationProfile([1.0, -1.0]), InvalidValueError, "-1.0"),
        (lambda: InformationProfile([math.nan]), InvalidValueError, "nan"),
        (lambda: InformationProfile([math.inf, 1.0]), InvalidValueError, "inf"),
        (lambda: InformationProfile([[1.0]]), InvalidTypeError, "sequence of numbers"),
        (lambda: InformationProfile("abc"), InvalidTypeError, "sequence of numbers"),
        (lambda: plan_divergence([0.5, 0.5], [2]), InvalidValueError, "sums to 2, but 1"),
        (lambda: plan_divergence([0.5, 0.5], [[1]]), InvalidValueError, "one row"),
        (lambda: plan_divergence("p", [1]), InvalidTypeError, "torch.full"),
        (
            lambda: plan_divergence(np.full([2] * 14, 2.0**-14), [7, 7]),
            InvalidValueError,
            "at most 1073741824",
        ),
        (lambda: ancestral_divergence([0.5, 0.5], "linear", 0), InvalidValueError, "steps"),
        (lambda: ancestral_divergence([0.5, 0.5], 3, 1), InvalidTypeError, "schedule"),
        (lambda: FULL.cost([1, 1]), InvalidValueError, "sums to 2, but 3"),
        (lambda: FULL.cost([4, -1]), InvalidValueError, "negative"),
        (lambda: FULL.cost([1.5, 1.5]), InvalidTypeError, "integers"),
        (lambda: FULL.cost([[3]]), InvalidValueError, "one row"),
        (lambda: FULL.cost(None), InvalidTypeError, "integers"),
        (lambda: FULL.optimal_plan(4), InvalidValueError, re.escape("profile.optimal_plan(3)")),
        (lambda: FULL.fit_beta(4), InvalidValueError, "4 steps"),
        (lambda: FULL.schedule(4), InvalidValueError, "4 steps"),
        (lambda: FULL.schedule(0), InvalidValueError, "steps"),
        (lambda: FULL.fit_beta(1.0), InvalidTypeError, "steps"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
