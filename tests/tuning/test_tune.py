"""`tune`: searches, comparisons, several numbers of steps, and refusals."""

import json
import math
import zlib

import numpy as np
import pytest

import mdm_schedules as mdm
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    ObjectiveError,
    UnknownNameError,
)
from mdm_schedules.tuning import Comparison, Scores, compare
from mdm_schedules.tuning.scorebook import CheckedObjective, ScoreBook
from mdm_schedules.tuning.selection import Candidate, check, shortlist

pytestmark = pytest.mark.slow

pytest.importorskip("optuna")

TARGET = mdm.Beta(0.7, 0.4)
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


def closeness(schedule):
    """Return minus the distance to the target, 0 at the target."""
    return -sum(abs(schedule.alpha(t) - TARGET.alpha(t)) for t in TIMES)


class Noisy:
    """Scores with a large noise that schedules share, and a small noise that they do not."""

    metric_name = "closeness"
    batch_size = 8

    def __init__(self, num_instances=200, own=0.05, seed=3):
        rng = np.random.default_rng(seed)
        self.num_instances, self.own = num_instances, own
        self.shared = rng.normal(0, 1, num_instances)
        self.asked = []

    def __call__(self, schedule, steps=None, instances=None):
        self.asked.append((schedule, len(instances)))
        noise = np.random.default_rng(zlib.crc32(schedule.spec.encode())).normal(
            0, self.own, self.num_instances
        )
        return [closeness(schedule) + self.shared[i] + noise[i] for i in instances]


@pytest.mark.parametrize("method", ["tpe", "gp", "cmaes", "random"])
def test_a_search_finds_what_is_better_than_its_start(method):
    n_trials = 20 if method == "gp" else 40  # GP takes half a second for each
    found = mdm.tune(closeness, n_trials=n_trials, seed=0, method=method)
    assert found.best_schedule != mdm.Linear()
    assert closeness(found.best_schedule) > max(
        closeness(mdm.Beta(*point)) for point in ((0.5, 0.5), (1, 1), (0.9, 0.3))
    )
    assert len(found.trials) >= n_trials
    assert found.choice.score == pytest.approx(closeness(found.best_schedule))
    assert found.choice.baseline == pytest.approx(closeness(mdm.Linear()))
    again = mdm.tune(closeness, n_trials=n_trials, seed=0, method=method)
    assert again.to_json() == found.to_json()


def test_the_grid_is_the_papers():
    found = mdm.tune(closeness, method="grid")
    assert found.best_schedule == TARGET
    pairs = {
        (trial.schedule.a, trial.schedule.b)
        for trial in found.trials
        if isinstance(trial.schedule, mdm.Beta)
    }
    assert pairs == {(i / 10, j / 10) for i in range(1, 11) for j in range(1, 11)}


@pytest.mark.slow
def test_lower_may_be_better_and_the_worst_may_be_infinite():
    own = mdm.Beta(0.6, 0.5)
    found = mdm.tune(
        lambda schedule: mdm.energy_excess(schedule), n_trials=20, direction="minimize"
    )
    # the optimum for gamma(t) = t; linear's energy is infinite
    assert found.best_schedule == mdm.SquaredSine()
    assert found.choice.baseline == math.inf
    assert json.dumps(found.to_json(), allow_nan=False)
    found = mdm.tune(
        lambda schedule: -mdm.energy_excess(schedule, own), n_trials=30, bounds=(0.3, 1.2)
    )
    assert 1 <= mdm.energy_excess(found.best_schedule, own) < mdm.energy_excess("linear", own)


def test_the_baseline_stays_if_nothing_is_ahead_of_it():
    found = mdm.tune(lambda schedule: -abs(schedule.alpha(0.25) - 0.25), n_trials=8)
    assert found.best_schedule == mdm.Linear()
    assert "No candidate was ahead" in found.verdict()
    noise = Noisy(own=3.0)
    found = mdm.tune(noise, n_trials=12, confidence=0.999)
    assert found.best_schedule == mdm.Linear()
    assert found.choice.challenger.schedule != mdm.Linear()
    assert "stays" in found.verdict()
    assert found.interval[0] < found.choice.gain.difference < found.interval[1]


@pytest.mark.slow
def test_common_noise_cancels_and_the_check_uses_other_instances():
    objective = Noisy()
    found = mdm.tune(objective, n_trials=30)
    choice = found.choice
    assert choice.held_out
    assert (choice.decided.instances, choice.gain.instances, choice.fresh) == (100, 25, True)
    assert closeness(found.best_schedule) > closeness(mdm.Linear()) + 0.3
    # the scores themselves vary by 1 between instances, the difference hardly
    assert choice.standard_error > 0.05 > choice.gain.standard_error
    assert choice.decided.p_value < 0.001
    assert choice.gain.difference == pytest.approx(
        closeness(found.best_schedule) - closeness(mdm.Linear()), abs=5 * choice.gain.standard_error
    )
    assert found.region()[0].schedule == choice.challenger.schedule
    assert mdm.Linear() not in [trial.schedule for trial in found.region()]
    whole = Noisy()
    mdm.tune(whole, n_trials=30, race=False)
    # what cannot win is left early
    assert sum(n for _, n in objective.asked) < sum(n for _, n in whole.asked)
    assert {trial.state for trial in found.trials} == {"complete", "pruned"}


def test_no_instances_are_kept_apart_if_asked():
    found = mdm.tune(Noisy(40), n_trials=6, held_out=0)
    assert not found.choice.held_out
    assert found.choice.gain.instances == 40


def test_the_short_list_gets_more_instances():
    objective = Noisy(128, own=0.4)
    book = ScoreBook(CheckedObjective(objective), {"select": range(128)})
    candidates = [Candidate(mdm.Beta(a, 0.4), "") for a in np.linspace(0.3, 1.5, 25)]
    rounds = []
    finalists = shortlist(
        candidates, book, [None], 16, lambda left, size: rounds.append((left, size))
    )
    assert [size for _, size in rounds] == [16, 32, 64, 128]
    lefts = [left for left, _ in rounds]
    assert lefts == sorted(lefts, reverse=True)
    assert (
        closeness(finalists[0].schedule) > sorted(closeness(one.schedule) for one in candidates)[-5]
    )
    assert len(book.entry("select", finalists[0].schedule, None).values) == 128
    asked = sum(n for _, n in objective.asked)
    assert asked < 25 * 128 / 2
    choice = check(finalists[0], Candidate(mdm.Linear(), "baseline"), book, [None], 0.5)
    assert (choice.origin, choice.held_out) == ("", False)


def test_several_numbers_of_steps_at_once():
    goals = {4: mdm.Beta(0.7, 0.4), 8: mdm.Beta(0.5, 0.5), 16: mdm.Beta(1.0, 0.8)}

    def objective(schedule, steps):
        return -sum(abs(schedule.alpha(t) - goals[steps].alpha(t)) for t in TIMES)

    found = mdm.tune(objective, method="grid", steps=[16, 4, 8])
    assert list(found.choices) == [None, 4, 8, 16]
    assert {steps: found.best(steps) for steps in goals} == goals | {8: mdm.Linear()}
    assert found.best() == found.best_schedule
    mean = {
        s: np.mean([objective(s, k) for k in goals]) for s in (found.best_schedule, *goals.values())
    }
    assert max(mean, key=mean.get) == found.best_schedule
    with pytest.raises(InvalidValueError, match="5 steps were not tuned; known: 4, 8, 16"):
        found.best(5)
    front = mdm.tune(objective, n_trials=25, steps=[4, 16], multi_objective=True)
    assert objective(front.best(4), 4) > objective(mdm.Linear(), 4)
    assert objective(front.best(16), 16) > objective(mdm.Linear(), 16)


def test_equal_plans_are_asked_once():
    class Planned:
        asked = 0

        def __call__(self, schedule, steps):
            self.asked += 1
            return -float((schedule.plan(8, steps) - TARGET.plan(8, steps)).abs().sum())

        def plan_key(self, schedule, steps):
            return str(schedule.plan(8, steps).tolist())

    objective = Planned()
    found = mdm.tune(objective, method="grid", steps=3)
    assert found.best_schedule.plan(8, 3).tolist() == TARGET.plan(8, 3).tolist()
    assert objective.asked < 30


def test_threads_do_the_same_work():
    objective = Noisy()
    found = mdm.tune(objective, n_trials=30, n_jobs=4)
    assert len([trial for trial in found.trials if trial.origin.startswith("trial")]) >= 29
    assert closeness(found.best_schedule) > closeness(mdm.Linear())


def test_extras_and_passes_are_shown():
    class Rich(Noisy):
        def __call__(self, schedule, steps=None, instances=None):
            values = super().__call__(schedule, steps, instances)
            return Scores(values, {"distinct": schedule.alpha(0.5)}, 3 * len(values))

    found = mdm.tune(Rich(64), n_trials=5)
    assert "| distinct |" in found.table()
    for trial in found.trials:
        assert trial.extras[None]["distinct"] == pytest.approx(trial.schedule.alpha(0.5))
        assert trial.passes == 3 * trial.scores[None][2]
    assert found.passes >= sum(trial.passes for trial in found.trials)


@pytest.mark.slow
def test_a_race_on_the_mean_loses_no_winner_at_single_steps():
    goals = {4: (0.05, 1.0), 16: (0.6, 20.0)}

    class Steps(Noisy):
        def __call__(self, schedule, steps=None, instances=None):
            goal, weight = goals[steps]
            return [
                -weight * abs(schedule.alpha(0.3) - goal) + 0.01 * self.shared[i] for i in instances
            ]

    raced = mdm.tune(Steps(128), method="grid", steps=[4, 16])
    for steps, (goal, _) in goals.items():
        nearest = min(
            (mdm.Beta(a / 10, b / 10) for a in range(1, 11) for b in range(1, 11)),
            key=lambda s: abs(s.alpha(0.3) - goal),
        )
        assert abs(raced.best(steps).alpha(0.3) - goal) == pytest.approx(
            abs(nearest.alpha(0.3) - goal), abs=0.01
        )


def test_more_baselines_than_one():
    def objective(schedule, instances):
        return [float(schedule == mdm.Sine())] * len(instances)

    objective.num_instances = 24
    found = mdm.tune(objective, n_trials=3, baselines=["linear", "sine"])
    assert found.best_schedule == mdm.Sine()
    assert found.choice.won
    assert found.choice.baseline == 0
    assert "Better by +1 (" in found.verdict()


# --- comparison


def test_paired_comparison():
    shared = np.random.default_rng(0).normal(0, 10, 400)
    a = shared + np.random.default_rng(1).normal(0.1, 0.5, 400)
    gap = compare(a, shared)
    assert isinstance(gap, Comparison)
    assert gap.difference == pytest.approx(np.mean(a - shared))
    assert gap.standard_error == pytest.approx(np.std(a - shared, ddof=1) / 20)
    assert gap.low < gap.difference < gap.high
    assert gap.p_value < 0.01
    back = compare(a, shared, -1.0)
    assert (back.difference, back.p_value) == pytest.approx((-gap.difference, 1 - gap.p_value))
    covered = sum(
        compare(np.random.default_rng(k).normal(0.2, 1, 12), [0.0] * 12).low
        < 0.2
        < compare(np.random.default_rng(k).normal(0.2, 1, 12), [0.0] * 12).high
        for k in range(400)
    )
    assert 365 <= covered <= 393  # 95 % of 400, within three standard errors
    assert compare([1.0], [0.5]).p_value == 0
    assert compare([1.0, 1.0], [1.0, 1.0]).p_value == 0.5
    assert compare([-math.inf], [0.0]).p_value == 1
    assert compare([-math.inf], [-math.inf]).p_value == 0.5


# --- results


@pytest.mark.slow
def test_pictures_and_report(tmp_path):
    found = mdm.tune(Noisy(48), n_trials=14, screening=16)
    found.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    page = found.report(tmp_path / "deep" / "report.html").read_text()
    assert page.count("<img") == 1
    assert "http" not in page
    assert found.verdict().split(":")[0] in page
    assert all(trial.schedule.spec in page for trial in found.trials)

    def objective(schedule, steps):
        return closeness(schedule) * steps

    endless = mdm.tune(
        lambda schedule: mdm.energy_excess(schedule), n_trials=12, direction="minimize"
    )
    endless.report(tmp_path / "endless.html")  # with trials that are infinitely bad

    both = mdm.tune(objective, n_trials=10, steps=[2, 4])
    assert len(both.plot().axes) == 3  # the map, its colours, the curves
    assert both.report(tmp_path / "two.html").read_text().count("<img") == 2


def test_the_winner_is_saved_with_its_evaluation(tmp_path):
    found = mdm.tune(Noisy(64), n_trials=10, steps=8)
    with pytest.raises(InvalidValueError, match="model='user/model'"):
        found.evaluation()
    found.save_pretrained(tmp_path / "plain")
    assert mdm.Schedule.from_pretrained(tmp_path / "plain") == found.best_schedule
    found.save_pretrained(tmp_path / "full", model="me/model", task="closeness")
    record = mdm.Schedule.from_pretrained(tmp_path / "full").evaluation
    assert (record.model, record.task, record.steps, record.metric) == (
        "me/model",
        "closeness",
        8,
        "closeness",
    )
    assert (record.value, record.baseline) == (found.choice.score, found.choice.baseline)
    assert record.standard_error == found.choice.standard_error
    told = json.loads((tmp_path / "full/tuning.json").read_text())
    assert told == json.loads(json.dumps(found.to_json()))
    assert len(told["trials"]) == len(found.trials)
    without = mdm.tune(Noisy(64), n_trials=4)
    with pytest.raises(InvalidValueError, match="give steps"):
        without.evaluation(model="me/model")


# --- bad input


def test_wrong_arguments_are_told_before_any_trial():
    asked = []

    def objective(schedule):
        asked.append(schedule)
        return 0.0

    for error, words, options in (
        (UnknownNameError, "Did you mean 'tpe'", {"method": "tpee"}),
        (InvalidTypeError, "method must be one of", {"method": 3}),
        (InvalidValueError, "n_trials must be an integer >= 1", {"n_trials": 0}),
        (InvalidValueError, "direction must be", {"direction": "up"}),
        (InvalidValueError, "bounds must increase", {"bounds": (1.0, 0.1)}),
        (InvalidValueError, "bounds must be a finite number in \\(0", {"bounds": (0, 1)}),
        (InvalidTypeError, "bounds must be two numbers", {"bounds": 5}),
        (InvalidTypeError, "takes no `steps`", {"steps": 8}),
        (InvalidValueError, "multi_objective needs", {"multi_objective": True}),
        (
            InvalidValueError,
            "cmaes has one objective",
            {"multi_objective": True, "method": "cmaes"},
        ),
        (UnknownNameError, "no schedule is named 'linea'", {"baselines": ["linea"]}),
        (InvalidTypeError, "baselines must be", {"baselines": []}),
        (InvalidValueError, "held_out must be", {"held_out": 1.5}),
        (InvalidValueError, "confidence must be", {"confidence": 0.2}),
        (InvalidValueError, "screening must be", {"screening": 1}),
        (InvalidTypeError, "needs a profile for this objective", {"method": "profile"}),
        (InvalidValueError, "storage must end in", {"storage": "study.txt"}),
        (InvalidTypeError, "storage must be a path", {"storage": 7}),
    ):
        with pytest.raises(error, match=words):
            mdm.tune(objective, **options)
    assert not asked
    with pytest.raises(InvalidTypeError, match="must be a function"):
        mdm.tune("linear")


def test_an_objective_without_instances_or_of_another_direction():
    nothing = Noisy(1)
    nothing.num_instances = 0
    with pytest.raises(InvalidValueError, match="no instances"):
        mdm.tune(nothing)
    with pytest.raises(InvalidTypeError, match="num_instances"):
        mdm.tune(lambda schedule, instances: [0.0 for _ in instances])
    nothing.num_instances, nothing.direction = 4, "minimize"
    with pytest.raises(InvalidValueError, match="is to minimize its score"):
        mdm.tune(nothing, direction="maximize")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: math.nan, "finite numbers .* got nan"),
        (lambda: math.inf, "got inf"),
        (lambda: "0.5", "got '0.5'"),
        (lambda: None, "got None"),
        (lambda: [], "at least one score"),
        (lambda: [0.1, math.nan], "got nan"),
    ],
)
def test_an_answer_that_is_no_score_keeps_the_finished_trials(bad, words):
    asked = []

    def objective(schedule):
        asked.append(schedule)
        return bad() if len(asked) > 5 else closeness(schedule)

    with pytest.raises(ObjectiveError, match=words) as caught:
        mdm.tune(objective, n_trials=20)
    assert [trial.schedule for trial in caught.value.finished] == asked[:5]
    assert str(asked[5]) in str(caught.value)


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_keeps_the_finished_trials(jobs):
    asked = []

    def objective(schedule):
        asked.append(schedule)
        if len(asked) > 5:
            raise KeyboardInterrupt
        return closeness(schedule)

    with pytest.raises(KeyboardInterrupt) as caught:
        mdm.tune(objective, n_trials=20, n_jobs=jobs)
    finished = [trial.schedule for trial in caught.value.finished]
    assert finished
    assert all(schedule in asked[:5] for schedule in finished)


def test_the_wrong_number_of_scores():
    class Short(Noisy):
        def __call__(self, schedule, steps=None, instances=None):
            return super().__call__(schedule, steps, instances)[:-1]

    with pytest.raises(ObjectiveError, match=r"must give 8 scores .* got 7"):
        mdm.tune(Short(), n_trials=5)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (lambda: Scores(3.0), "values .* a list of scores, got 3.0"),
        (lambda: Scores([1.0], extras=3), "extras .* a dict of numbers, got 3"),
        (lambda: Scores([1.0], nfe=None), "nfe .* a list of passes, got None"),
    ],
)
def test_scores_of_another_form_are_told(scores, words):
    with pytest.raises(ObjectiveError, match=words):
        mdm.tune(lambda schedule: scores(), n_trials=3)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("steps", "6", "steps of the objective must be an integer"),
        ("steps", 0, "steps of the objective must be an integer"),
        ("num_tokens", "x", "num_tokens of the objective must be an integer"),
        ("sampler", 3, "sampler of an objective must be a dict, got 3"),
        ("settings", 3, "settings of an objective must be a dict, got 3"),
        ("clusters", 3, "clusters of an objective must be a list"),
    ],
)
def test_attributes_of_an_objective_are_checked_before_it_is_asked(name, value, words):
    noisy = Noisy(8)
    setattr(noisy, name, value)
    for space in ("schedule", "plan"):
        with pytest.raises(MDMError, match=words):
            mdm.tune(noisy, space=space, n_trials=3)
    assert not noisy.asked
