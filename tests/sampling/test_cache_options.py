"""The options of caches reach every surface, and what is published of a run."""

import pytest
from caching import model_of, prompts

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.integrations.accelerate.fingerprint import fingerprint
from mdm_schedules.sampling.names import BY_POSITION
from mdm_schedules.sampling.options import OPTIONS, STORED
from mdm_schedules.sampling.stored import StoredOptions, merge_options

NAMES = ("cache", "cache_refresh", "cache_refresh_blocks")
DUAL = {"cache": "dual", "cache_refresh": 2}
GIVEN = {"max_new_tokens": 8, "steps": 4, "block_length": 4}


def test_they_are_in_the_table_and_can_be_stored():
    assert set(NAMES) <= set(STORED)
    assert not set(NAMES) & set(list(OPTIONS)[:BY_POSITION])
    assert StoredOptions(DUAL) == DUAL
    with pytest.raises(InvalidValueError, match="Did you mean 'prefix'"):
        StoredOptions({"cache": "prefx"})


def test_a_saved_generation_config_carries_them(tmp_path):
    config = mdm.MaskedDiffusionGenerationConfig(**DUAL, **GIVEN)
    config.save_pretrained(tmp_path)
    again = mdm.MaskedDiffusionGenerationConfig.from_pretrained(tmp_path)
    model = model_of("llada")
    out = mdm.generate(model, *prompts(model), generation_config=again)
    assert (out.cache.mode, out.cache.refresh) == ("dual", 2)
    over = mdm.generate(
        model, *prompts(model), generation_config=again, cache="none", cache_refresh=0
    )
    assert over.cache is None


def test_the_fingerprint_of_a_job_holds_them():
    model = model_of("llada")
    schedule = mdm.get_schedule("linear")
    told = [
        fingerprint(model, schedule, merge_options(dict(more), None, None), None, "no", False)
        for more in ({}, {"cache": "dual"}, DUAL)
    ]
    assert [one["options"]["cache"] for one in told] == ["auto", "dual", "dual"]
    assert told[1] != told[2]


def test_a_distributed_job_and_a_pipeline_use_them():
    pytest.importorskip("accelerate")
    pytest.importorskip("diffusers")
    model = model_of("llada")
    ids, _ = prompts(model)
    expected = mdm.generate(model, ids[:1], **GIVEN, **DUAL, seed=[5]).sequences
    out = mdm.generate_distributed(model, [ids[0].tolist()], **GIVEN, **DUAL, seed=5)
    again = mdm.generate(model, ids[:1], **GIVEN, **DUAL, seed=[out.records[0]["seed"]])
    assert out.records[0]["tokens"] == again.sequences[0].tolist()
    scheduler = mdm.MaskedDiffusionScheduler(
        mask_token_id=model.config.mask_token_id, schedule="linear"
    )
    pipe = mdm.MaskedDiffusionPipeline(model, scheduler, None)
    pipe.set_progress_bar_config(disable=True)
    written = pipe(
        input_ids=ids[:1],
        max_new_tokens=8,
        num_inference_steps=4,
        output_type="seq",
        block_length=4,
        seed=[5],
        **DUAL,
    )
    assert written.sequences.tolist() == expected[:, ids.shape[1] :].tolist()


def test_an_information_profile_uses_no_cache(monkeypatch):
    from mdm_schedules.models.cache import KVStore

    monkeypatch.setattr(KVStore, "begin", None)
    for family in ("llada", "sdar"):
        model = model_of(family)
        ids = prompts(model)[0]
        profile = mdm.InformationProfile.estimate(model, ids, counts=[0, 3, ids.shape[1] - 1])
        assert profile.cost([4] * (ids.shape[1] // 4)) >= 0
