"""The choice between a candidate and the baseline: when it refuses, and what it says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.tuning import compare
from mdm_schedules.tuning.decoding import Decoding, words
from mdm_schedules.tuning.statistics import more_clusters, standard_error

pytest.importorskip("optuna")
SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "choice_errors.py"


@pytest.fixture(scope="module")
def worlds():
    spec = importlib.util.spec_from_file_location("choice_errors", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_linear_is_rarely_replaced_by_chance_and_a_true_gain_is_found(worlds):
    replaced, _ = worlds.count(60, 4)
    assert replaced <= 3
    found, gains = worlds.count(60, 4, gain=3.0)
    assert found >= 50
    deciding, reported, truth = np.mean(gains, axis=0)
    # A lead that had to be large to win is too large; the reported one is not.
    assert deciding > truth
    assert abs(reported - truth) < 0.06


def ahead(gain, num_instances, clusters=None, noise=0.5):
    """An objective on which every schedule but linear is ahead by `gain`."""
    shared = np.random.default_rng(0).normal(0, 1, num_instances)

    def score(schedule, instances):
        own = np.random.default_rng(len(schedule.spec)).normal(0, noise, num_instances)
        lead = gain[clusters] if clusters is not None and np.ndim(gain) else gain
        return (shared + own + lead * (schedule != mdm.Linear()))[instances]

    score.num_instances, score.clusters = num_instances, clusters
    return score


def tuned(score, **options):
    return mdm.tune(score, method="random", n_trials=2, **options)


def test_a_clear_gain_is_told_with_an_interval_from_fresh_instances():
    found = tuned(ahead(1.0, 120))
    assert found.choice.finding == "better"
    parts = {name: len(rows) for name, rows in found.book.parts.items()}
    assert parts == {"select": 45, "held_out": 60, "report": 15}
    assert len(set().union(*found.book.parts.values())) == 120
    assert found.choice.fresh
    assert re.search(
        r"Better by \+[\d.]+ \(\+[\d.]+ to \+[\d.]+, 95 %\) on 15 instances that decided nothing; "
        "the check passed at 95 %",
        found.verdict(),
    )


def test_too_few_instances_are_said_to_be_with_how_many_more_would_tell():
    found = tuned(ahead(1.0, 12))
    assert found.best_schedule == mdm.Linear()
    assert (found.choice.finding, found.choice.needed) == ("too few instances", 4)
    assert "4 more held-out ones would tell" in found.verdict()
    found = tuned(ahead(1.0, 3))
    assert found.choice.finding == "too few instances"
    assert "Too few instances to check any candidate: give 20 or more" in found.verdict()
    gap = compare([0.3, -0.1] * 20, [0.0] * 40)  # 0.1, with a standard error of 0.032
    more = more_clusters(gap, 0.999)
    wanted = (3.0902 + 0.8416) * gap.standard_error / gap.difference
    assert more == int(np.ceil(40 * wanted**2)) - 40
    assert more_clusters(compare([0.5, -0.5] * 20, [0.0] * 40), 0.95) is None


def test_no_difference_is_said_to_be_found():
    found = tuned(ahead(0.0, 80))
    assert found.best_schedule == mdm.Linear()
    assert found.choice.finding in ("no difference", "too few instances")
    assert "linear() stays" in found.verdict()


def test_without_held_out_instances_there_is_no_confidence():
    found = tuned(ahead(1.0, 40), held_out=0)
    assert found.choice.finding == "unchecked"
    assert found.choice.won
    assert "which is no check" in found.verdict()
    with pytest.raises(InvalidValueError, match="without held-out instances there is no conf"):
        tuned(ahead(1.0, 40), held_out=0, confidence=0.9)
    assert "confidence" not in str(found.to_json())


def test_instances_of_a_prompt_are_one_cluster_and_stay_together():
    clusters = [i // 8 for i in range(160)]
    found = tuned(ahead(1.0, 160, clusters))
    held = {clusters[i] for i in found.book.parts["held_out"]}
    assert held.isdisjoint(clusters[i] for i in found.book.parts["select"])
    assert (found.choice.decided.clusters, found.choice.decided.instances) == (10, 80)
    assert "80 held-out instances of 10 prompts" in found.verdict()
    # A gain on some prompts that is a loss on others is none, however many seeds there are.
    rng = np.random.default_rng(1)
    gains = rng.permutation(np.repeat([-2.0, 2.0], 10))
    mixed = tuned(ahead(gains, 160, clusters, noise=0.1))
    assert mixed.best_schedule == mdm.Linear()


def test_one_prompt_alone_gets_no_verdict_beyond_itself():
    found = tuned(ahead(1.0, 80, ["the prompt"] * 80))
    assert found.choice.finding == "better"
    assert found.verdict().endswith(
        "All instances share one prompt: this says nothing about others."
    )
    few = tuned(ahead(1.0, 80, [i // 40 for i in range(80)]))
    assert few.choice.finding == "too few instances"
    assert few.best_schedule == mdm.Linear()
    odd = ahead(1.0, 80, ["a"] * 79)
    with pytest.raises(InvalidValueError, match="one for each of its 80 instances, got 79"):
        tuned(odd)


def test_errors_are_by_cluster():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        values = np.repeat(rng.normal(0.5, 1, 15), 6) + rng.normal(0, 0.3, 90)
        gap = compare(values, np.zeros(90), clusters=[i // 6 for i in range(90)])
        covered += gap.low < 0.5 < gap.high
    assert covered >= 272  # 95 % of 300, less three standard errors
    single = list(rng.normal(size=30))
    assert standard_error(single, list(range(30))) == pytest.approx(standard_error(single))
    assert np.isnan(standard_error(single, [0] * 30))


def test_verdicts_on_several_numbers_of_steps_share_the_risk():
    def score(schedule, steps, instances):
        return [0.0 for _ in instances]

    score.num_instances = 40
    found = mdm.tune(score, method="random", n_trials=2, steps=[2, 4, 8])
    assert {choice.level for choice in found.choices.values()} == {1 - 0.05 / 4}


def test_long_schedules_are_printed_by_their_plan():
    plan = mdm.InformationProfile(np.linspace(2, 0, 24) ** 3).schedule(8)
    assert len(plan.spec) > 60
    text = words(plan, 8, 24)
    assert text.startswith("plan ")
    assert "x" in text
    assert (
        sum(int(size) * int(many or 1) for size, many in re.findall(r"(\d+)(?: x(\d+))?", text))
        == 24
    )
    assert words(plan, None, None).endswith("/100 %")
    assert words(mdm.Linear(), 8, 24) == "linear()"
    rule = Decoding.of(mdm.Linear(), {"steps": 16, "commit": "threshold(0.9)"})
    assert words(rule, 8, 24) == "linear(), commit=threshold(0.9), steps=16"
