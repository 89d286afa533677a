"""Objectives on real models: generation, teacher forcing, judgement, prediction, profiles."""

import math
from itertools import permutations

import pytest
import torch
from encoders import small_bert
from transformers import GPT2Config, GPT2LMHeadModel

import mdm_schedules as mdm
from mdm_schedules.demo import tasks as demo
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError, UnknownNameError
from mdm_schedules.tuning import (
    GenerationObjective,
    LikelihoodObjective,
    ProfileObjective,
    TeacherForcedObjective,
    diversity,
)

pytest.importorskip("optuna")
MASK = 4


@pytest.fixture(scope="module")
def bert():
    return small_bert(mask_token_id=MASK)


def test_generation_scores_each_instance_by_its_own_seed(bert):
    prompts = [[5, 6], [7, 8, 9], [10], [11, 12]]
    seen = []

    def metric(output, answer):
        seen.append((output.tolist(), answer))
        return float(output.sum())

    options = {"max_new_tokens": 6, "temperature": 1.0, "remasking": "random", "seed": 100}
    pairs = [(prompt, i) for i, prompt in enumerate(prompts)]
    objective = GenerationObjective(bert, pairs, metric, steps=3, batch_size=2, **options)
    scores = objective(mdm.Linear())
    assert len(scores.values) == 4
    assert scores.passes == 3 * 4
    assert scores.extras["nfe"] == 3
    for i, prompt in enumerate(prompts):
        alone = mdm.generate(
            bert,
            torch.tensor([prompt]),
            schedule="linear",
            steps=3,
            **options | {"seed": [100 + i]},
        )
        assert seen[i] == (alone.sequences[0, len(prompt) :].tolist(), i)
    assert objective(mdm.Linear(), instances=[2, 0]).values == [scores.values[2], scores.values[0]]
    assert objective(mdm.Linear(), steps=6).passes == 6 * 4
    assert objective.plan_key(mdm.Beta(0.5, 0.5), 3) == objective.plan_key(mdm.Linear(), 3)
    blocks = GenerationObjective(bert, pairs, metric, steps=3, block_length=3, max_new_tokens=6)
    assert blocks.plan_key(mdm.Linear(), 3) is None
    assert objective.remasking == "random"


def test_text_instances_on_the_shipped_model():
    model, tokenizer = demo.load("code")
    instances = [
        {"prompt": "def __init__(", "answer": "self"},
        {"prompt": "def get(self, key):\n    return self", "answer": "."},
    ]
    options = {"tokenizer": tokenizer, "max_new_tokens": 1, "steps": 1}
    assert GenerationObjective(model, instances, **options)(mdm.Linear()).values == [1.0, 1.0]
    wrong = [{"prompt": "def __init__(sel", "answer": "x"}]
    assert GenerationObjective(model, wrong, "contains", **options)(mdm.Linear()).values == [0.0]
    assert GenerationObjective(model, instances, **options).model_name.endswith("code")


@pytest.mark.slow
def test_sudoku_is_tuned_by_profile_and_checked():
    objective = demo.sudoku_objective(48, clues=12, remasking="random", temperature=0.5)
    profile = objective.estimate_profile(8)
    assert (profile.num_tokens, profile.measurement.passes) == (24, 8 * 24)
    found = mdm.tune(objective, method="profile", profile=profile, steps=6, screening=16)
    origins = {trial.origin for trial in found.trials}
    assert {"baseline", "cosine", "predicted: best Beta at 6"} <= origins
    # presets were measured in another order
    assert not any(origin.startswith("preset:") for origin in origins)
    costs = [trial.predicted[6] for trial in found.trials]
    assert min(costs) == pytest.approx(profile.cost(profile.optimal_plan(6)))  # it is among them
    assert found.choice.held_out
    assert found.choice.gain.instances == 24
    assert found.passes == profile.measurement.passes + found.book.passes
    assert "predicted nats" in found.table()
    assert (
        mdm.tune(objective, method="profile", profile=profile, steps=6, screening=16).to_json()
        == found.to_json()
    )


def test_a_prediction_must_win_the_check():
    class Ordered:
        num_instances, batch_size = 40, 40

        def __init__(self, remasking, gain):
            self.remasking, self.gain = remasking, gain

        def __call__(self, schedule, steps, instances):
            foretold = "tabulated" in schedule.spec
            return [self.gain * foretold + ((7 * i) % 5 - 2 if foretold else 0) for i in instances]

    profile = mdm.InformationProfile([3.0, 1.0, 0.5, 0.2, 0.1, 0.0, 0.0, 0.0])
    # ahead by half a standard error, which no prediction makes enough
    for remasking in ("random", "low_confidence"):
        found = mdm.tune(Ordered(remasking, 0.15), method="profile", profile=profile, steps=3)
        assert found.choice.origin == "baseline", found.verdict()
        assert found.choice.challenger.origin.startswith("predicted")
    found = mdm.tune(Ordered("low_confidence", 2.0), method="profile", profile=profile, steps=3)
    assert found.choice.origin.startswith("predicted")
    assert found.choice.decided.p_value < 0.05


def test_one_number_is_no_check_of_a_prediction_for_another_order():
    profile = mdm.InformationProfile([3.0, 1.0, 0.5, 0.2, 0.1, 0.0, 0.0, 0.0])

    def lucky(schedule, steps):
        return float("tabulated" in schedule.spec)

    # which order it has is not known
    found = mdm.tune(lucky, method="profile", profile=profile, steps=3)
    assert found.best_schedule == mdm.Linear()
    assert found.choice.challenger.origin.startswith("predicted")
    lucky.remasking = "random"
    assert mdm.tune(lucky, method="profile", profile=profile, steps=3).choice.won


def test_a_profile_is_measured_on_instances_that_choose():
    seen = []

    class Watched(GenerationObjective):
        def estimate_profile(self, sequences=16, instances=None, **options):
            seen.extend(instances)
            return mdm.InformationProfile([1.0, 0.5, 0.1])

    model, tokenizer = demo.load("code")
    objective = Watched(
        model, [("im", "p")] * 20, "contains", tokenizer=tokenizer, max_new_tokens=3, steps=2
    )
    found = mdm.tune(objective, method="profile", screening=4)
    assert sorted([*seen, *found.book.parts["held_out"]]) == list(range(20))
    assert list(found.choices) == [2]  # the objective's own steps


def test_ragged_prompts_with_masks_are_judged_without_their_padding(bert):
    prompts = [[5, MASK, 6, MASK], [7, 8, MASK, 9, 10, MASK, 11, 12], [MASK, 13, MASK]]
    alone = GenerationObjective(
        bert, [(prompt, None) for prompt in prompts], lambda out, _: 0.0, steps=2, batch_size=1
    )
    answers = [alone.answers(alone.write([i], mdm.Linear(), 2), [i])[0] for i in range(3)]
    pairs = list(zip(prompts, [answer.tolist() for answer in answers], strict=True))
    assert GenerationObjective(bert, pairs, steps=2, batch_size=3)(mdm.Linear()).values == [
        1.0,
        1.0,
        1.0,
    ]


def test_the_objective_of_a_profile():
    profile = mdm.InformationProfile([2.0, 1.0, 0.5, 0.4, 0.3, 0.2])
    objective = ProfileObjective(profile)
    assert objective(mdm.Linear(), steps=2) == pytest.approx(-profile.cost([3, 3]))
    found = mdm.tune(objective, n_trials=40, steps=3)
    assert found.choice.score == pytest.approx(-profile.cost(profile.optimal_plan(3)))
    with pytest.raises(InvalidValueError, match="needs a number of steps"):
        objective(mdm.Linear())
    with pytest.raises(InvalidTypeError, match="must be an InformationProfile"):
        ProfileObjective([1.0])


# --- teacher forcing


def exact_scores(model, row, plan, order):
    """Return the log-likelihood of `row` revealed in groups of `plan` along `order`.

    It is computed straight from the definition.
    """
    state, total, begin = torch.full_like(row, MASK), 0.0, 0
    for size in plan:
        logits = model(state[None]).logits[0].double()
        logits[:, MASK] = -torch.inf
        logs = torch.log_softmax(logits, -1)
        group = list(order[begin : begin + size])
        total += float(logs[group, row[group]].sum())
        state[group] = row[group]
        begin += size
    return total


@torch.no_grad()
def test_teacher_forcing_from_the_left_is_the_chain_rule(bert):
    rows = torch.randint(5, 30, (3, 6), generator=torch.Generator().manual_seed(1))
    objective = TeacherForcedObjective(bert, rows, remasking="left_to_right", batch_size=2)
    for steps in (1, 2, 6):
        scores = objective(mdm.Linear(), steps)
        plan = mdm.Linear().plan(6, steps).tolist()
        wanted = [exact_scores(bert, row, plan, range(6)) / 6 for row in rows]
        assert scores.values == pytest.approx(wanted, rel=1e-5)
        assert scores.passes == 3 * steps
    assert objective(mdm.Linear(), 2, [2]).values == pytest.approx(
        [objective(mdm.Linear(), 2).values[2]], rel=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("remasking", ["low_confidence", "margin", "entropy"])
def test_teacher_forcing_by_confidence_follows_the_policy(bert, remasking):
    rows = torch.randint(5, 30, (4, 6), generator=torch.Generator().manual_seed(2))

    def measure(logits):
        probs = torch.softmax(logits, -1)
        best = probs.topk(2, -1).values
        by_name = {
            "low_confidence": best[:, 0],
            "margin": best[:, 0] - best[:, 1],
            "entropy": -torch.special.entr(probs).sum(-1),
        }
        return by_name[remasking]

    wanted = []
    for row in rows:
        state, total = torch.full_like(row, MASK), 0.0
        for size in (2, 2, 2):
            logits = bert(state[None]).logits[0].clone()
            logits[:, MASK] = -torch.inf
            score = measure(logits).masked_fill(state != MASK, -torch.inf)
            group = score.topk(size).indices
            total += float(torch.log_softmax(logits, -1)[group, row[group]].sum())
            state[group] = row[group]
        wanted.append(total / 6)
    objective = TeacherForcedObjective(bert, rows, remasking=remasking)
    assert objective(mdm.Linear(), 3).values == pytest.approx(wanted, rel=1e-5)


def test_teacher_forcing_knows_places(bert):
    """Without a prompt and a decay, pc is low_confidence; with a large decay, left to right."""
    rows = torch.randint(5, 30, (4, 6), generator=torch.Generator().manual_seed(2))
    for spec, same in (("pc(decay=0)", "low_confidence"), ("pc(decay=50)", "left_to_right")):
        one, other = (
            TeacherForcedObjective(bert, rows, remasking=name)(mdm.Linear(), 3).values
            for name in (spec, same)
        )
        assert one == pytest.approx(other, rel=1e-5)


@torch.no_grad()
def test_teacher_forcing_in_random_order_has_the_predicted_mean(bert):
    row = torch.tensor([6, 9, 12, 20])
    plan = [1, 3]
    mean = sum(exact_scores(bert, row, plan, order) for order in permutations(range(4))) / 24 / 4
    draws = 600
    objective = TeacherForcedObjective(bert, row.repeat(draws, 1), batch_size=200)
    schedule = mdm.Tabulated([0.0, 0.25, 1.0])
    assert schedule.plan(4, 2).tolist() == plan
    values = torch.tensor(objective(schedule, 2).values, dtype=torch.float64)
    assert abs(float(values.mean()) - mean) < 4 * float(values.std()) / math.sqrt(draws)
    assert float(values.std()) > 0


def test_teacher_forcing_keeps_a_prompt_in_sight_and_leaves_dropout_out(bert):
    rows = torch.randint(5, 30, (3, 6), generator=torch.Generator().manual_seed(3))
    maskable = torch.zeros_like(rows, dtype=torch.bool)
    maskable[:, 4:] = True
    objective = TeacherForcedObjective(bert, rows, maskable, remasking="left_to_right", steps=2)
    with torch.no_grad():
        state = rows[:1].clone()
        state[0, 4:] = MASK
        first = bert(state).logits[0, 4].double()
        first[MASK] = -torch.inf
        state[0, 4] = rows[0, 4]
        second = bert(state).logits[0, 5].double()
        second[MASK] = -torch.inf
    wanted = (
        sum(float(torch.log_softmax(x, -1)[rows[0, i]]) for x, i in ((first, 4), (second, 5))) / 2
    )
    assert objective(mdm.Linear()).values[0] == pytest.approx(wanted, rel=1e-5)
    bert.train()
    try:
        # without dropout all the same
        assert objective(mdm.Linear()).values[0] == pytest.approx(wanted, rel=1e-5)
        assert bert.training
    finally:
        bert.eval()
    with pytest.raises(InvalidValueError, match="mask token"):
        TeacherForcedObjective(bert, rows.index_fill(1, torch.tensor([0]), MASK))


# --- judged likelihood


def test_likelihood_is_shown_with_diversity(bert):
    torch.manual_seed(1)
    judge = GPT2LMHeadModel(
        GPT2Config(vocab_size=30, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    ).eval()
    objective = LikelihoodObjective(
        bert, judge, [[5, 6]] * 8, max_new_tokens=6, temperature=1.0, remasking="random", steps=3
    )
    scores = objective(mdm.Linear())
    out = objective.write(range(8), mdm.Linear(), 3)
    with torch.no_grad():
        loss = [
            -torch.nn.functional.cross_entropy(
                judge(row[None]).logits[0, 1:-1].double(), row[2:]
            ).item()
            for row in out.sequences
        ]
    assert scores.values == pytest.approx(loss, rel=1e-5)
    assert {"distinct", "hamming", "unigram_entropy"} <= set(scores.extras)
    found = mdm.tune(objective, n_trials=4)
    assert "| distinct | hamming | unigram_entropy |" in found.table()
    collapsed = LikelihoodObjective(bert, judge, [[5, 6]] * 8, max_new_tokens=6, steps=3)(
        mdm.Linear()
    )
    assert collapsed.extras["distinct"] == 1 / 8
    assert collapsed.extras["hamming"] == 0
    assert "distinct" in found.to_json()["choices"][0]["extras"]
    options = {"max_new_tokens": 6, "steps": 3, "batch_size": 2}
    small = LikelihoodObjective(bert, judge, [[5, 6]] * 8, **options)(mdm.Linear())
    assert small.extras == collapsed.extras  # small batches hide no collapse
    prompts = [[5, 6], [7], [8, 9, 10], [11]]
    ragged, single = (
        LikelihoodObjective(bert, judge, prompts, **options | {"batch_size": n}) for n in (4, 1)
    )
    assert ragged(mdm.Linear()).values == pytest.approx(single(mdm.Linear()).values, rel=1e-4)
    with pytest.raises(InvalidValueError, match="max_new_tokens"):
        LikelihoodObjective(bert, judge, [[5, 6]], steps=2)


def test_diversity():
    same = diversity(torch.tensor([[1, 1], [1, 1]]))
    assert same == {"distinct": 0.5, "hamming": 0.0, "unigram_entropy": 0.0}
    rows = torch.tensor([[1, 2, 3], [1, 2, 4], [5, 2, 4]])
    told = diversity(rows)
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert told["hamming"] == pytest.approx(
        sum(float((rows[i] != rows[j]).float().mean()) for i, j in pairs) / 3
    )
    assert told["distinct"] == 1
    shares = [2 / 9, 3 / 9, 1 / 9, 2 / 9, 1 / 9]
    assert told["unigram_entropy"] == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert diversity(torch.tensor([[3, 4]]))["hamming"] == 0


# --- bad input


def test_wrong_instances_and_options(bert):
    pairs = [([5], [6])]
    for error, words, build in (
        (InvalidTypeError, "instances must be a list", lambda: GenerationObjective(bert, "text")),
        (InvalidValueError, "at least one prompt", lambda: GenerationObjective(bert, [])),
        (
            InvalidTypeError,
            "an instance must be",
            lambda: GenerationObjective(bert, [{"text": "x"}]),
        ),
        (
            UnknownNameError,
            "Did you mean 'exact_match'",
            lambda: GenerationObjective(bert, pairs, "exact_mach"),
        ),
        (InvalidTypeError, "metric must be", lambda: GenerationObjective(bert, pairs, 3)),
        (InvalidTypeError, "need tokenizer=", lambda: GenerationObjective(bert, [("text", "x")])),
        (
            InvalidTypeError,
            "schedule is not an option",
            lambda: GenerationObjective(bert, pairs, schedule="linear"),
        ),
        (InvalidTypeError, "the judge must be", lambda: LikelihoodObjective(bert, 3, [[5]])),
        (InvalidValueError, "steps must be", lambda: GenerationObjective(bert, pairs, steps=0)),
    ):
        with pytest.raises(error, match=words):
            build()
    objective = GenerationObjective(bert, pairs, steps=2, max_new_tokens=2, temprature=1.0)
    with pytest.raises(MDMError, match="temprature"):
        mdm.tune(objective, n_trials=2)


def test_passes_that_write_the_objective_s_own_answers_are_counted():
    model, tokenizer = demo.load("code")
    prompts = [{"prompt": f"x = {i}", "answer": "\n"} for i in range(4)]
    given = {"tokenizer": tokenizer, "max_new_tokens": 6, "remasking": "random"}
    objective = GenerationObjective(model, prompts, "contains", **given)
    written = objective.write([0, 1, 2, 3], None, None)
    told = [
        {"prompt": ids, "answer": "\n", "sequence": row}
        for ids, row in zip(objective.prompts, written.tolist(), strict=True)
    ]
    reference = GenerationObjective(model, told, "contains", **given)
    asked = {"counts": [0, 5], "passes": 8}
    own, known = objective.estimate_profile(**asked), reference.estimate_profile(**asked)
    assert known.measurement.passes == 8
    assert own.measurement.passes == 8 + written.nfe * 4
    assert own.values == known.values
    found = mdm.tune(objective, method="profile", profile=own, steps=2, screening=2)
    assert found.passes == own.measurement.passes + found.book.passes


# --- sequences and prompts of different forms


def test_teacher_forcing_takes_sequences_of_different_lengths_and_measures_its_profile(bert):
    rows = [
        torch.randint(5, 30, (length,), generator=torch.Generator().manual_seed(length))
        for length in (6, 9, 6, 4, 9, 6, 4, 9, 6, 4)
    ]
    together = TeacherForcedObjective(bert, rows, steps=2)
    values = together(mdm.Linear()).values
    for length in (4, 6, 9):
        places = [place for place, row in enumerate(rows) if len(row) == length]
        alone = TeacherForcedObjective(
            bert, torch.stack([rows[place] for place in places]), remasking="left_to_right", steps=2
        )
        mixed = TeacherForcedObjective(bert, rows, remasking="left_to_right", steps=2)
        assert mixed(mdm.Linear(), instances=places).values == pytest.approx(
            alone(mdm.Linear()).values, rel=1e-5
        )
    assert together(mdm.Linear(), instances=[4, 0]).values == pytest.approx([values[4], values[0]])
    assert together.plan_key(mdm.Linear(), 2) == together.plan_key(mdm.Beta(0.5, 0.5), 2)
    with pytest.warns(UserWarning, match="overconfident"):
        found = mdm.tune(together, method="profile", steps=2, held_out=0.2)
    assert found.profile.num_tokens == 6
    assert found.profile.measurement.calibration.differs


def test_masks_inside_a_prompt_are_judged_from_the_first_on(bert):
    torch.manual_seed(0)
    judge = GPT2LMHeadModel(
        GPT2Config(vocab_size=30, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    )
    judge.eval()
    prompts = [[5, MASK, 6, MASK], [7, 8, 9, MASK, 10], [11, 12, MASK, 13]]
    objective = LikelihoodObjective(bert, judge, prompts, steps=1, batch_size=3)
    out = objective.write([0, 1, 2], mdm.Linear(), 1)
    scores = objective(mdm.Linear())
    for i, prompt in enumerate(prompts):
        row = out.sequences[i, out.sequences.shape[1] - len(prompt) :]
        logs = torch.log_softmax(judge(row[None]).logits[0].double(), -1)
        first = prompt.index(MASK)
        total = sum(float(logs[place - 1, row[place]]) for place in range(first, len(row)))
        assert scores.values[i] == pytest.approx(total / prompt.count(MASK), rel=1e-5)
    assert 0 < scores.extras["distinct"] <= 1
    both = LikelihoodObjective(bert, judge, prompts, steps=1, max_new_tokens=2)
    assert [len(row) for row in both.answers(both.write([0, 1], mdm.Linear(), 1), [0, 1])] == [4, 3]
    with pytest.raises(InvalidValueError, match="max_new_tokens"):
        LikelihoodObjective(bert, judge, [*prompts, [5, 6]])
