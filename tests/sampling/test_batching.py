"""Prompts that a model cannot run together are run apart, on every surface, with the same tokens."""

import pytest
import torch
from families import FAMILIES, MASK, V

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models import get_adapter, takes_padding
from mdm_schedules.sampling.batching import in_batches, in_calls, joined
from mdm_schedules.sampling.prompt import left_pad
from mdm_schedules.tuning.objectives import GenerationObjective

LENGTHS = (3, 6, 7, 3, 11)
OPTIONS = {"max_new_tokens": 6, "steps": 3, "temperature": 1.0}


def ragged():
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, MASK, (length,), generator=draw).tolist() for length in LENGTHS]


@pytest.fixture(params=FAMILIES)
def model(request):
    return FAMILIES[request.param]().eval()


def alone(model, prompt, **options):
    return mdm.generate(model, torch.tensor([prompt]), **OPTIONS, **options).sequences[0].tolist()


def test_batches_hold_every_prompt_once_and_only_what_runs_together(model):
    adapter = get_adapter(model)
    batches = list(in_batches(adapter, LENGTHS, 2))
    assert sorted(i for batch in batches for i in batch) == list(range(len(LENGTHS)))
    assert max(map(len, batches)) == 2
    block = adapter.block_length
    for batch in batches:
        lengths = {LENGTHS[i] for i in batch}
        assert takes_padding(adapter) or len(lengths) == 1
        assert block is None or len({length % block for length in lengths}) == 1
    assert list(in_batches(adapter, [4, 4, 4])) == [[0, 1, 2]]


def test_ragged_prompts_in_several_calls_write_what_they_write_alone(model):
    prompts = ragged()
    ids, mask = left_pad(prompts)
    seeds = list(range(10, 15))
    parts = [
        (rows, mdm.generate(model, **call).sequences)
        for rows, call in in_calls(get_adapter(model), ids, mask, OPTIONS | {"seed": seeds})
    ]
    whole = joined(ids, parts)
    assert whole.shape == (5, 11 + 6)
    for row, prompt, seed in zip(whole.tolist(), prompts, seeds, strict=True):
        assert row[11 - len(prompt) :] == alone(model, prompt, seed=[seed])


@pytest.mark.parametrize("seed", [None, 3])
def test_one_seed_means_the_same_in_one_call_and_in_several(model, seed):
    ids, mask = left_pad(ragged())
    options = OPTIONS | {"num_return_sequences": 2, "seed": seed}
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        calls = in_calls(get_adapter(model), ids, mask, options)
        runs.append(joined(ids, [(r, mdm.generate(model, **c).sequences) for r, c in calls]))
    assert torch.equal(*runs)
    assert runs[0].shape == (10, 17)


def test_a_plan_for_each_row_goes_with_its_row():
    model = FAMILIES["mdlm"]().eval()
    ids, mask = left_pad(ragged())
    plan = [[4, 2], [1, 5], [2, 4], [3, 3], [5, 1]]
    options = {"max_new_tokens": 6, "plan": plan}
    for rows, call in in_calls(get_adapter(model), ids, mask, options):
        assert mdm.generate(model, **call).plan.tolist() == [plan[row] for row in rows]


def test_an_objective_scores_ragged_prompts_as_each_alone(model):
    prompts = ragged()
    objective = GenerationObjective(
        model, [(p, 0) for p in prompts], lambda out, _: float(out.sum()), batch_size=4, seed=7,
        max_new_tokens=6, temperature=1.0, steps=3,
    )  # fmt: skip
    scores = objective(mdm.Linear())
    want = [
        float(sum(alone(model, p, schedule="linear", seed=[7 + i])[len(p) :]))
        for i, p in enumerate(prompts)
    ]
    assert scores.values == want
    backwards = objective(mdm.Linear(), instances=[4, 1])
    assert backwards.values == [want[4], want[1]]
    profile = objective.estimate_profile(sequences=4, passes=24, counts=[0, 2, 5])
    assert profile.num_tokens == 6


def test_ragged_prompts_are_tuned(model):
    pytest.importorskip("optuna")
    pairs = [(p, 0) for p in ragged()]
    objective = GenerationObjective(
        model, pairs, lambda out, _: float(out.sum()), max_new_tokens=6, steps=3
    )
    result = mdm.tune(objective, n_trials=2, seed=0)
    assert result.best_schedule.plan(6, 3).sum() == 6


def test_the_pipeline_writes_ragged_prompts_as_each_alone(model):
    pytest.importorskip("diffusers")
    told = []
    pipe = mdm.MaskedDiffusionPipeline(model, mdm.MaskedDiffusionScheduler(MASK, "linear"))
    pipe.set_progress_bar_config(disable=True)
    ids, mask = left_pad(ragged())
    options = {"max_new_tokens": 6, "num_inference_steps": 3, "temperature": 1.0}
    out = pipe(
        input_ids=ids, attention_mask=mask, seed=list(range(5)), output_type="seq", **options,
        callback_on_step_end=lambda pipe, step, time, tensors: told.append(step),
    )  # fmt: skip
    assert out.sequences.shape == (5, 6)
    for i, prompt in enumerate(ragged()):
        one = alone(model, prompt, schedule="linear", seed=[i])
        assert out.sequences[i].tolist() == one[len(prompt) :]
    assert told == list(range(out.nfe))
    assert out.nfe == 3 * len(list(in_batches(get_adapter(model), LENGTHS)))


def test_a_profile_of_ragged_sequences_needs_no_padding():
    """Sequences of one length run together, so that the answer is that of each length alone."""
    model = FAMILIES["mdlm"]().eval()
    rows = [row for row in ragged() if len(row) == 3]
    long = [row for row in ragged() if len(row) > 3][:2]
    ids, real = left_pad([*rows, *long])
    maskable = torch.zeros_like(real)
    maskable[:, -2:] = True
    options = {"counts": [0, 1], "passes": 400, "method": "cross_entropy"}
    both = mdm.InformationProfile.estimate(
        model, ids, maskable=maskable, attention_mask=real, **options
    )
    short = mdm.InformationProfile.estimate(
        model, ids[:2, -3:], maskable=maskable[:2, -3:], **options
    )
    assert both.measurement.means[0] != short.measurement.means[0]
    # nothing is drawn where all is hidden: the mean over rows is exact
    parts = [
        mdm.InformationProfile.estimate(
            model,
            torch.tensor([row, row]),
            maskable=torch.tensor([[*[False] * (len(row) - 2), True, True]] * 2),
            **options,
        ).measurement.means[0]
        for row in (*rows, *long)
    ]
    assert both.measurement.means[0] == pytest.approx(sum(parts) / 4, rel=1e-5)
    turned = real.flip(1)
    with pytest.raises(InvalidValueError, match="zeros on the left"):
        mdm.InformationProfile.estimate(
            model, ids, maskable=turned & (turned.cumsum(1) <= 2), attention_mask=turned
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mdlm_runs_in_half_precision_though_its_time_is_float32(dtype):
    model = FAMILIES["mdlm"]().eval().to(dtype)
    out = mdm.generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=8, steps=4)
    assert not (out.sequences == MASK).any()
    assert int(out.sequences.max()) < V


def test_mdlm_is_asked_for_profiles_and_likelihoods_without_a_mask():
    from mdm_schedules.tuning.objectives import TeacherForcedObjective

    model = FAMILIES["mdlm"]().eval()
    tokens = torch.randint(0, MASK, (8, 6), generator=torch.Generator().manual_seed(1))
    profile = mdm.InformationProfile.estimate(model, tokens, counts=[0, 2, 5])
    assert profile.num_tokens == 6
    scores = TeacherForcedObjective(model, tokens, steps=3)(mdm.Linear())
    assert len(scores.values) == 8
