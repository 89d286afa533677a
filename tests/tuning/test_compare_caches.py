"""`compare_caches` counts, compares in pairs and recommends; objectives take and record a cache."""

import pytest
import torch
from caching import model_of

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.tuning import GenerationObjective, TeacherForcedObjective
from mdm_schedules.tuning.caches import CacheRow, _recommend
from mdm_schedules.tuning.statistics import Comparison

DUAL = {"dual": {"cache": "dual"}, "plain": {"cache": "dual", "cache_refresh": 1}}


def sequences(model, rows=6, length=24):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(5, model.config.vocab_size - 6, (rows, length), generator=generator)


def test_sequences_give_nats_and_equal_tokens():
    model = model_of("llada")
    found = mdm.compare_caches(model, sequences(model), steps=6, block_length=4, modes=DUAL)
    dual, plain, half = found.rows
    assert (found.instances, found.steps) == (6, 6)
    assert dual.computed < plain.computed == 1
    assert plain.equal == 1
    assert plain.nats.difference == pytest.approx(0, abs=1e-6)
    assert dual.nats.difference != 0
    assert dual.metric is None
    assert half.name == "half the steps"
    assert half.computed == 0.5
    assert found.table().count("\n") == 4
    assert found.sentence in str(found)
    assert found.to_json()["rows"][0]["nats"]["instances"] == 6


def test_a_task_gives_its_metric():
    model = model_of("dream")
    rows = sequences(model, length=9).tolist()

    def low(output, answer):
        return float((output < 40).float().mean())

    objective = GenerationObjective(
        model, [(row, None) for row in rows], low, max_new_tokens=8, block_length=4, steps=4
    )
    found = mdm.compare_caches(model, objective, modes=DUAL)
    assert found.rows[1].metric.difference == 0
    assert found.rows[0].nats is None
    assert "cache" not in objective.options


def test_prompts_of_different_lengths_run_as_the_objective_runs_them():
    """A model that attends by blocks cannot take them in one batch."""
    model = model_of("sdar")
    rows = [row[: 5 + index] for index, row in enumerate(sequences(model, length=12).tolist())]
    objective = GenerationObjective(
        model, [(row, None) for row in rows], lambda output, _: float(output.sum()),
        max_new_tokens=8, steps=8,
    )  # fmt: skip
    found = mdm.compare_caches(model, objective)
    assert (found.instances, found.rows[0].equal) == (6, 1)
    assert found.rows[0].metric.difference == 0


def test_an_exact_cache_is_recommended_where_there_is_one():
    model = model_of("sdar")
    found = mdm.compare_caches(model, sequences(model), steps=6)
    assert found.recommended == {"cache": "exact"}
    assert found.rows[0].equal == 1
    assert found.rows[0].nats.difference == pytest.approx(0, abs=1e-5)


def row(name, computed, loss, low):
    nats = Comparison(-loss, 0.01, low, 0.0, 0.5, 10, 10)
    return CacheRow(name, {"cache": name}, computed, 1.0, nats, None)


@pytest.mark.parametrize(("low", "best"), [(-0.03, "dual"), (-0.06, "prefix")])
def test_the_cheapest_that_surely_loses_little_is_recommended(low, best):
    rows = [row("prefix", 0.6, 0.01, -0.02), row("dual", 0.4, 0.01, low)]
    chosen, sentence = _recommend(rows, row("none", 0.5, 0.2, -0.3), 0.25)
    assert chosen == {"cache": best}
    assert f"Use cache='{best}'" in sentence
    assert _recommend(rows, row("none", 0.5, 0.01, -0.3), 0.25)[0] == {"cache": "none"}


def test_a_teacher_forced_objective_takes_blocks_and_a_cache():
    model = model_of("llada2")
    rows = sequences(model)
    schedule = mdm.get_schedule("linear")
    plain = TeacherForcedObjective(model, rows, steps=9)
    cached = TeacherForcedObjective(model, rows, steps=9, cache="exact")
    assert cached.sampler == {"remasking": "random", "cache": "exact", "block_length": 8}
    assert cached(schedule).values == pytest.approx(plain(schedule).values, abs=1e-5)
    assert cached.use.computed < cached.use.without
    assert plain.use is None
    with pytest.raises(InvalidValueError, match="attends by blocks of 8"):
        TeacherForcedObjective(model, rows, steps=9, block_length=4)
    with pytest.raises(InvalidTypeError, match="needs a model that an adapter knows"):
        TeacherForcedObjective(lambda x, rows: x, rows, steps=9, cache="dual", mask_token_id=3)


def test_tuning_records_the_cache():
    model = model_of("llada")
    objective = GenerationObjective(
        model,
        [(list(range(5, 12)), None)] * 2,
        lambda output, answer: float(output.float().mean()),
        max_new_tokens=8,
        block_length=4,
        cache="dual",
        cache_refresh=2,
    )
    found = mdm.tune(objective, n_trials=2, steps=4, method="random", seed=0)
    assert objective.sampler["cache"] == "dual"
    assert found.to_json()["objective"]["sampler"]["cache_refresh"] == 2


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        ("text", {}, "sequences, a LongTensor"),
        (None, {"maskable": torch.arange(24).lt(4).expand(6, 24)}, "the last tokens of each row"),
        (None, {"steps": 1}, "steps must be an integer >= 2"),
    ],
)
def test_wrong_data_is_refused(data, options, text):
    model = model_of("llada")
    with pytest.raises((InvalidTypeError, InvalidValueError), match=text):
        mdm.compare_caches(model, sequences(model) if data is None else data, **options)


def test_a_model_without_a_cache_is_refused():
    with pytest.raises(InvalidValueError, match="there is no cache to compare"):
        mdm.compare_caches(lambda tokens: tokens, torch.ones(2, 4).long(), steps=2)


def test_data_that_shows_no_loss_recommends_nothing():
    chosen, sentence = _recommend([row("dual", 0.4, 0.0, 0.0)], row("none", 0.5, 0.0, 0.0), 0.25)
    assert chosen == {"cache": "none"}
    assert "half the steps lose nothing on this data" in sentence
