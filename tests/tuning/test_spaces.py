"""Spaces beside (a, b): remasking, commit rules with passes as a second axis, and plans."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import mdm_schedules as mdm
from mdm_schedules.cli import main
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    ObjectiveError,
    UnknownNameError,
)
from mdm_schedules.sampling import get_commit
from mdm_schedules.tuning import GenerationObjective, Scores
from mdm_schedules.tuning.front import find_front
from mdm_schedules.tuning.spaces import RULES, CommitSpace, PlanSpace, fitting_rules

pytest.importorskip("optuna")
MASK = 4


class Synthetic:
    """Quality rises with passes; thresholds are read as what they ask for."""

    metric_name, num_instances, batch_size = "quality", 64, 64
    remasking = "low_confidence"
    sampler = {"remasking": "low_confidence"}  # noqa: RUF012

    def __init__(self):
        self.asked = []

    def __call__(self, schedule, steps=None, instances=None, options=None):
        options = dict(options or {})
        self.asked.append((schedule, steps, options))
        noise = np.random.default_rng(0).normal(0, 0.3, 64)[instances]
        own = np.random.default_rng(len(str(options))).normal(0, 0.02, 64)[instances]
        passes, quality = float(steps), steps / 10
        if "commit" in options:
            # A rule spends what it needs, and gains a third for it.
            level = float(options["commit"].partition("(")[2].partition(",")[0].rstrip(")"))
            passes = min(float(steps), 1 + 6 * min(level, 1.0))
            quality = passes / 7.5
        if "remask_fraction" in options:
            quality += 0.5 - abs(options["remask_fraction"] - 0.4)
        return Scores((quality + noise + own).tolist(), {}, 0, [passes] * len(instances))


def test_a_commit_rule_is_tuned_within_the_passes_and_shown_as_a_front():
    objective = Synthetic()
    found = mdm.tune(objective, space="schedule+commit", steps=6, n_trials=14)
    assert found.choice.finding == "better"
    assert found.best_options["commit"]
    assert found.choice.passes <= 6.13
    assert found.choice.baseline_passes == 6
    assert found.choice.schedule == found.best_schedule
    front = found.front()
    passes, scores = [one.passes for one in front], [one.score for one in front]
    assert passes == sorted(passes)
    assert scores == sorted(scores)
    assert all(one.held_out and one.score_low < one.score < one.score_high for one in front)
    assert all(one.gain.instances == 32 for one in front)
    assert "commit=" in found.verdict()
    assert "| passes | quality | gain over the baseline | decoding |" in found.front_table()
    told = found.to_json()
    assert told["space"] == "schedule+commit"
    assert told["choices"][0]["options"] == dict(found.choice.options)
    assert len(told["front"]) == len(front)
    assert json.dumps(told, allow_nan=False)
    asked = [options for _, _, options in objective.asked if "commit" in options]
    assert all(mdm.sampling.get_commit(one["commit"]) for one in asked)


def test_max_passes_is_a_constraint_and_the_baseline_spends_as_many():
    found = mdm.tune(Synthetic(), space="schedule+commit", steps=12, max_passes=4, n_trials=14)
    assert list(found.choices) == [4]
    assert found.choice.baseline_passes == 4
    assert found.choice.passes <= 4 * 1.02
    with pytest.raises(InvalidValueError, match="give steps=4, or space='schedule\\+commit'"):
        mdm.tune(Synthetic(), steps=8, max_passes=4)


def test_remasking_is_tuned_with_the_schedule():
    found = mdm.tune(Synthetic(), space="schedule+remask", steps=6, n_trials=16)
    assert found.choice.finding == "better"
    assert abs(found.best_options["remask_fraction"] - 0.4) <= 0.2
    assert found.best_options["remask"] in ("uniform", "confidence")
    assert found.best_options["steps"] == 6


GOAL = np.array([2, 1, 5, 9, 4, 3])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cmaes", "reinforce"])
def test_plans_are_searched(method):
    class Planned:
        num_tokens = 24

        def __call__(self, schedule, steps):
            gaps = schedule.plan(24, steps).numpy() - GOAL
            return -float((gaps**2).sum())

        def plan_key(self, schedule, steps):
            return str(schedule.plan(24, steps).tolist())

    objective = Planned()
    start = max(objective(mdm.Linear(), 6), objective(mdm.Sine(), 6), objective(mdm.Cosine(), 6))
    found = mdm.tune(objective, space="plan", method=method, steps=6, n_trials=60)
    assert found.choice.score > start / 2
    assert "plan " in found.verdict()
    again = mdm.tune(objective, space="plan", method=method, steps=6, n_trials=60)
    assert again.to_json() == found.to_json()


def test_points_of_the_plan_space_are_near_the_schedules_that_they_stand_for():
    space = PlanSpace(8)
    linear = space.read(space.points()[0]).schedule
    assert linear.plan(24, 6).tolist() == [4] * 6
    fast = space.read(space.point(mdm.Beta(0.9, 0.3))).schedule
    gap = (fast.plan(24, 6).cumsum(0) - mdm.Beta(0.9, 0.3).plan(24, 6).cumsum(0)).abs()
    assert gap.max() <= 1


def test_every_rule_of_the_space_exists_and_fits_an_order():
    assert set(fitting_rules("low_confidence")) | set(fitting_rules("entropy")) == set(RULES)
    assert fitting_rules("random") == []
    for order in ("low_confidence", "entropy"):
        space = CommitSpace((0.05, 5.0), order, 8)
        for point in space.points():
            assert mdm.sampling.get_commit(dict(space.read(point).options)["commit"])


def test_every_corner_of_every_rule_is_a_rule():
    space = CommitSpace((0.05, 5.0), None, 8)
    for rule, (form, _) in RULES.items():
        for values in itertools.product(*(ends[1:3] for ends in form)):
            named = dict(zip([one[0] for one in form], values, strict=True))
            found = space.read({"a": 1.0, "b": 1.0, "stretch": 2.0, "rule": rule, **named})
            assert get_commit(dict(found.options)["commit"]).name == rule


def test_a_space_that_does_not_fit_is_refused_before_the_first_score():
    objective = Synthetic()

    def plain(schedule, steps):
        return 0.0

    chance = Synthetic()
    chance.remasking = "random"
    fixed, remasked = Synthetic(), Synthetic()
    fixed.sampler = {"commit": "factor"}
    remasked.sampler = {"remask_fraction": 0.3}
    for error, words, given, options in (
        (UnknownNameError, "Did you mean 'plan'", objective, {"space": "plans"}),
        (InvalidTypeError, "space must be one of", objective, {"space": 3}),
        (InvalidTypeError, "takes `options`", plain, {"space": "schedule+remask"}),
        (InvalidValueError, "one number of steps", objective, {"space": "plan", "steps": [2, 4]}),
        (InvalidValueError, "needs 2 steps", objective, {"space": "plan", "steps": 1}),
        (InvalidValueError, "no commit rule reads", chance, {"space": "schedule+commit"}),
        (InvalidValueError, "leave commit out", fixed, {"space": "schedule+remask"}),
        (InvalidValueError, "leave remask_fraction out", remasked, {"space": "schedule+commit"}),
        (
            InvalidValueError,
            "is searched by tpe, random",
            objective,
            {"space": "schedule+commit", "method": "grid"},
        ),
        (InvalidValueError, "max_passes must be", objective, {"max_passes": 0}),
    ):
        with pytest.raises(error, match=words):
            mdm.tune(given, **{"steps": 4, **options})
    assert not objective.asked


@pytest.mark.parametrize("space", ["schedule", "schedule+remask", "schedule+commit"])
def test_narrow_bounds_are_searched_from_their_middle(space):
    options = {"steps": 4, "n_trials": 3, "method": "random", "bounds": (2.0, 8.0)}
    found = mdm.tune(Synthetic(), space=space, **options)
    assert found.trials[0].schedule.spec == "beta(a=4.0, b=4.0)"


@pytest.mark.parametrize("passes", [math.nan, -1.0, math.inf, "4", None])
def test_passes_that_are_no_number_are_told(passes):
    class Odd(Synthetic):
        def __call__(self, schedule, steps=None, instances=None, options=None):
            return Scores([0.0] * len(instances), {}, 0, [passes] * len(instances))

    with pytest.raises(ObjectiveError, match=r"passes \(nfe\) that are finite numbers >= 0"):
        mdm.tune(Odd(), space="schedule+commit", steps=4, n_trials=3)


def test_a_study_from_before_still_opens(tmp_path):
    storage = str(tmp_path / "study.db")
    found = mdm.tune(Synthetic(), steps=6, n_trials=3, method="random", storage=storage)
    settings = found.to_json()["objective"]
    again = mdm.tune(Synthetic(), steps=6, n_trials=3, method="random", storage=storage)
    assert again.to_json()["objective"] == settings
    assert [trial.scores for trial in again.trials] == [trial.scores for trial in found.trials]
    with pytest.raises(InvalidValueError, match="has space"):
        mdm.tune(Synthetic(), steps=6, space="schedule+remask", storage=storage)


def test_the_front_holds_what_no_other_beats():
    class Row:
        state = "complete"

        def __init__(self, passes, score):
            self.nfe, self.scores = {8: (passes, 0.0)}, {8: (score, 0.0, 1)}

    rows = [Row(4, 1.0), Row(2, 0.5), Row(3, 0.4), Row(4, 0.9), Row(8, 1.0), Row(6, 1.5)]
    assert find_front(rows, 8, 1.0) == [rows[1], rows[0], rows[5]]
    assert find_front(rows, 8, -1.0) == [rows[1], rows[2]]


# --- on a model


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        **sizes, intermediate_size=32, max_position_embeddings=32, initializer_range=0.8
    )
    config.mask_token_id = MASK
    return BertForMaskedLM(config).eval()


@pytest.mark.slow
def test_a_rule_found_on_a_model_is_published_with_what_it_needs(bert, tmp_path):
    prompts = [([5 + i % 20, 6 + i % 7], i) for i in range(40)]
    objective = GenerationObjective(
        bert, prompts, lambda out, i: float(out.float().mean()), max_new_tokens=8, batch_size=40
    )
    found = mdm.tune(objective, space="schedule+commit", steps=3, n_trials=10, confidence=0.5)
    rows = [trial for trial in found.trials if trial.options]
    assert rows
    for trial in rows:
        assert 1 <= trial.nfe[3][0] <= dict(trial.options).get("steps", 3)
    entry = found.book.entry("select", rows[0].decoding, 3)
    assert len(entry.nfe) == len(entry.values)
    # What `generate` needs to decode as the trial did.
    options = dict(rows[0].options)
    scores = objective(rows[0].schedule, options.pop("steps"), [0, 1], options)
    again = objective(rows[0].schedule, dict(rows[0].options)["steps"], [0, 1], options)
    assert scores.values == again.values
    found.save_pretrained(tmp_path, model="me/model")
    record = mdm.Schedule.from_pretrained(tmp_path).evaluation
    assert record.sampler["remasking"] == "low_confidence"
    assert record.nfe == found.choice.passes
    if found.choice.options:
        assert record.sampler["commit"] == found.best_options["commit"]
        assert record.steps == found.best_options["steps"]
    picture = tmp_path / "front.png"
    assert len(found.plot(picture).axes) >= 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "passes" in found.report(tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_space_from_the_command_line(tmp_path, capsys):
    rows = [{"prompt": f"def f{i}(sel", "answer": "f"} for i in range(24)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [tmp_path / "mine.jsonl", "--steps", 2, "--max-new-tokens", 3, "--metric", "contains"]
    words += ["--space", "schedule+commit", "--n-trials", 3, "--json"]
    assert main(["tune", *map(str, words)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["space"] == "schedule+commit"
    assert told["front"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["early", "middle", "late"])
def test_plans_come_near_the_best_one(shape):
    """The best usual schedule is 10 % and more above the optimum here."""
    known = np.arange(64) / 64
    entropy = {
        "early": 3 * np.exp(-6 * known),
        "middle": 1.5 + 1.4 * np.tanh(6 * (0.5 - known)),
        "late": 3 - 2.8 * known**4,
    }[shape]
    profile = mdm.InformationProfile(entropy)

    class Cost:
        direction, num_tokens = "minimize", 64

        def __call__(self, schedule, steps):
            return profile.cost(schedule.plan(64, steps))

    found = mdm.tune(Cost(), space="plan", steps=8, n_trials=60, held_out=0)
    best = profile.cost(profile.optimal_plan(8))
    usual = ("linear", "sine", "cosine", "beta(a=0.9, b=0.3)")
    start = min(Cost()(mdm.get_schedule(name), 8) for name in usual)
    assert found.choice.score - best < 0.07 * best
    assert found.choice.score - best < (start - best) / 2
