"""Schedules survive configs, files, other classes and repositories."""

import json
from dataclasses import dataclass
from typing import ClassVar

import diffusers
import pytest
import torch
from diffusers import AmusedScheduler, BlockRefinementScheduler
from pipelines import TABLE

import mdm_schedules as mdm
from mdm_schedules.errors import (
    FormatError,
    InvalidTypeError,
    MDMError,
    UnknownNameError,
)


@pytest.mark.parametrize(
    "schedule", ["beta(a=0.9, b=0.3)", TABLE, mdm.EnergyOptimal(mdm.Beta(0.9, 0.3))]
)
@pytest.mark.parametrize("cls", [mdm.MaskedDiffusionScheduler, mdm.BlockMaskedDiffusionScheduler])
def test_a_schedule_survives_files_and_other_classes(cls, schedule, tmp_path):
    own = {"mask_token_id": 7} if cls is mdm.MaskedDiffusionScheduler else {"threshold": 0.6}
    theirs = AmusedScheduler if cls is mdm.MaskedDiffusionScheduler else BlockRefinementScheduler
    schedule = mdm.get_schedule(schedule)
    ours = cls(**own, schedule=schedule)
    ours.save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == cls.__name__
    )
    loaded = cls.from_pretrained(tmp_path)
    there = theirs.from_config(ours.config)
    back = cls.from_config(there.config)
    there.save_pretrained(tmp_path / "there")
    for one in (
        loaded,
        back,
        cls.from_pretrained(tmp_path / "there"),
        cls.from_config(loaded.config),
    ):
        assert one.schedule == schedule  # bit for bit: the knots are compared as floats
        assert one.config[next(iter(own))] == own[next(iter(own))]
    assert cls.from_pretrained(tmp_path, schedule="sine").schedule == mdm.Sine()


def test_a_scheduler_in_a_repository(tmp_path):
    """The files lie as in the Hub's cache, and are read without a network."""
    revision = "a" * 40
    repository = tmp_path / "models--somebody--schedule"
    mdm.MaskedDiffusionScheduler(mask_token_id=7, schedule=TABLE).save_pretrained(
        repository / "snapshots" / revision
    )
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(revision)
    loaded = mdm.MaskedDiffusionScheduler.from_pretrained(
        "somebody/schedule", cache_dir=tmp_path, local_files_only=True
    )
    assert loaded.schedule == TABLE


def test_configs_of_diffusers_keep_their_meaning():
    for name in ("cosine", "linear"):
        for theirs in (
            AmusedScheduler(7, name),
            AmusedScheduler(mask_token_id=7, masking_schedule=name),
        ):
            ours = mdm.MaskedDiffusionScheduler.from_config(theirs.config)
            assert ours.schedule == mdm.get_schedule(name)
            assert ours.config.mask_token_id == 7
            back = AmusedScheduler.from_config(ours.config)
            assert (back.config.masking_schedule, back.config.mask_token_id) == (name, 7)
    # AmusedInpaintPipeline writes into the config of its scheduler
    theirs = AmusedScheduler(7)
    theirs.register_to_config(masking_schedule="linear")
    assert mdm.MaskedDiffusionScheduler.from_config(theirs.config).schedule == mdm.Linear()
    assert (
        mdm.MaskedDiffusionScheduler.from_config(theirs.config, schedule="sine").schedule
        == mdm.Sine()
    )
    theirs = BlockRefinementScheduler(block_length=8, editing_threshold=0.3)
    ours = mdm.BlockMaskedDiffusionScheduler.from_config(theirs.config)
    assert (ours.config.block_length, ours.config.editing_threshold, ours.schedule) == (
        8,
        0.3,
        None,
    )


def test_schedules_that_cannot_be_kept(tmp_path):
    @dataclass(frozen=True, repr=False)
    class Unregistered(mdm.Linear):
        name: ClassVar[str] = "unregistered"

    for wrong in (Unregistered(), mdm.EnergyOptimal(lambda t: t)):
        with pytest.raises(FormatError, match="cannot be kept in a scheduler's config"):
            mdm.MaskedDiffusionScheduler(mask_token_id=7, schedule=wrong)
    with pytest.raises(UnknownNameError, match="cosine"):
        mdm.BlockMaskedDiffusionScheduler(schedule="cosin")
    with pytest.raises(UnknownNameError, match="cosine"):
        mdm.MaskedDiffusionScheduler(7, masking_schedule="cosin")
    # text in a file is a spec: nothing else is looked up or read
    mdm.Sine().save_pretrained(tmp_path / "sine")
    config = {"mask_token_id": 7, "schedule": str(tmp_path / "sine")}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(MDMError):
        mdm.MaskedDiffusionScheduler.from_pretrained(tmp_path)
    # a user may well name a folder
    assert mdm.MaskedDiffusionScheduler(**config).schedule == mdm.Sine()


def test_continuous_schedulers_are_refused():
    for theirs in (diffusers.DDIMScheduler(), diffusers.FlowMatchEulerDiscreteScheduler()):
        with pytest.raises(InvalidTypeError, match=r"no mask_token_id.*continuous latents"):
            mdm.MaskedDiffusionScheduler.from_config(theirs.config)
        with pytest.raises(
            InvalidTypeError, match=r"no block_length.*continuous latents.*is for LLaDA2Pipeline"
        ):
            mdm.BlockMaskedDiffusionScheduler.from_config(theirs.config)
    block = mdm.BlockMaskedDiffusionScheduler()
    for ask in (
        lambda: block.init_noise_sigma,
        lambda: block.set_timesteps(sigmas=[1.0, 0.5], mu=0.1),
        lambda: block.step(torch.zeros(1, 4, 2, 2), 1, torch.zeros(1, 4, 2, 2)),
    ):
        with pytest.raises(InvalidTypeError, match=r"continuous latents.*is for LLaDA2Pipeline"):
            ask()


def test_a_truncated_file_is_told_as_such(tmp_path):
    ours = mdm.MaskedDiffusionScheduler(mask_token_id=7, schedule=TABLE)
    ours.save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(
        (tmp_path / "scheduler_config.json").read_text()[:50]
    )
    with pytest.raises(OSError, match="valid JSON"):
        mdm.MaskedDiffusionScheduler.from_pretrained(tmp_path)
