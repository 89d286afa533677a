"""MaskedDiffusionGenerationConfig used like any config of transformers.

This covers attributes, copies, files and transformers' own generate.
"""

import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from generating import OPTIONS, bert, prompts
from transformers import GenerationConfig

import mdm_schedules as mdm
from mdm_schedules.demo import models as demo_models
from mdm_schedules.errors import FormatError, InvalidTypeError, InvalidValueError, MDMError

Config = mdm.MaskedDiffusionGenerationConfig


@pytest.fixture(scope="module")
def model():
    return bert()


def test_attributes_are_the_options():
    config = Config(steps=6, max_new_tokens=12, temperature=0.7)
    ours = config.masked_diffusion
    assert (config.steps, ours.max_new_tokens, ours.temperature) == (6, 12, 0.7)
    assert (ours.top_k, config.remasking, ours.num_return_sequences) == (
        None,
        "low_confidence",
        1,
    )
    config.steps, ours.temperature, ours.top_p = 2, None, np.float64(0.5)
    assert config.update(max_new_tokens=8, seed=np.int64(3), other=1) == {"other": 1}
    assert config.masked_diffusion == {"steps": 2, "max_new_tokens": 8, "top_p": 0.5, "seed": 3}
    assert ours.temperature == 0.0
    config.do_sample = True  # of the base class
    assert config.to_dict()["do_sample"] is True


def test_what_is_set_has_its_effect(model):
    mine = mdm.AutoModelForMaskedDiffusion.from_model(bert(), "linear")
    mine.generation_config = Config(steps=6, max_new_tokens=12)
    assert mine.generate(prompts()).nfe == 6
    mine.generation_config.steps = 2
    assert mine.generate(prompts()).nfe == 2
    mine.generation_config.update(steps=3)
    out = mine.generate(prompts())
    assert out.nfe == 3
    assert torch.equal(
        mdm.generate(model, prompts(), max_new_tokens=12, steps=3).sequences, out.sequences
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stepz", 3),
        ("steps", 0),
        ("steps", 2.5),
        ("temperature", -1),
        ("top_p", 0.0),
        ("remasking", "randm"),
        ("schedule", "betta(a=1, b=1)"),
        ("infill", "no"),
        ("eos_token_id", [-1]),
        ("masked_diffusion", {"stepz": 1}),
    ],
)
def test_what_cannot_be_is_told_at_once(name, value):
    config = Config(steps=6)
    holder = config if name in ("stepz", "masked_diffusion") else config.masked_diffusion
    with pytest.raises(MDMError, match="stepz" if name == "masked_diffusion" else name):
        setattr(holder, name, value)
    with pytest.raises(MDMError):
        Config(**{name: value})
    assert config.masked_diffusion == {"steps": 6}


def test_copies_and_files_keep_what_was_set(tmp_path):
    config = Config(steps=6, temperature=0.7, top_k=5)
    config.steps, config.masked_diffusion.num_return_sequences = 3, 2
    config.save_pretrained(tmp_path)
    copies = [
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        Config.from_dict(config.to_dict()),
        Config(**config.to_dict()),
        Config.from_pretrained(tmp_path),
    ]
    for other in copies:
        assert type(other) is Config
        assert other == config
        assert other.steps == 3
        other.steps = 4
        assert config.steps == 3
        assert other != config
    changed = Config.from_pretrained(tmp_path, steps=9, temperature=1.0, top_k=50)
    ours = changed.masked_diffusion
    assert (ours.steps, ours.temperature, ours.top_k, ours.num_return_sequences) == (
        9,
        1.0,
        50,
        2,
    )


@pytest.mark.parametrize(
    "own",
    [
        GenerationConfig(),
        GenerationConfig(
            eos_token_id=7, pad_token_id=0, max_new_tokens=3, num_return_sequences=2, do_sample=True
        ),
        Config(num_return_sequences=3),
    ],
    ids=["plain", "full", "ours"],
)
@pytest.mark.parametrize(
    "given",
    [
        Config(num_return_sequences=2, **OPTIONS),
        Config(max_new_tokens=12, eos_token_id=9, top_k=3),
        GenerationConfig(
            max_new_tokens=12,
            num_return_sequences=2,
            do_sample=True,
            top_k=5,
            top_p=1.0,
            temperature=0.9,
        ),
    ],
    ids=["copies", "ends", "plain"],
)
def test_transformers_own_generate_mixes_nothing_in(own, given):
    """Neither transformers' defaults nor the model's own config values take effect.

    A prompt that we repeat is not repeated again.
    """
    model = bert()
    model.generation_config = own
    out = model.generate(prompts(), custom_generate=mdm.generate, generation_config=given, seed=3)
    assert torch.equal(
        out.sequences, mdm.generate(model, prompts(), generation_config=given, seed=3).sequences
    )


def test_a_plan_a_schedule_and_steps(model):
    stored = Config(max_new_tokens=12, plan=[6, 6])
    assert mdm.generate(model, prompts(), generation_config=stored).nfe == 2
    out = mdm.generate(model, prompts(), generation_config=stored, schedule="squared_sine", steps=4)
    assert out.plan[0].tolist() == mdm.get_schedule("squared_sine").plan(12, 4).tolist()
    assert mdm.generate(model, prompts(), generation_config=stored, schedule="linear").nfe == 12
    stored = Config(max_new_tokens=12, steps=4, schedule="sine")
    assert mdm.generate(model, prompts(), generation_config=stored, plan=[4, 4, 4]).nfe == 3
    with pytest.raises(InvalidValueError, match=r"a plan or a schedule, not both; schedule\.plan"):
        mdm.generate(model, prompts(), max_new_tokens=12, plan=[12], schedule="sine")


def test_beam_search_is_refused(model):
    with pytest.raises(InvalidValueError, match="num_beams=4"):
        model.generate(prompts(), custom_generate=mdm.generate, num_beams=4, **OPTIONS)
    with pytest.raises(InvalidValueError, match="num_return_sequences"):
        mdm.generate(
            model, prompts(), generation_config=GenerationConfig(num_beams=4, max_new_tokens=3)
        )
    with pytest.raises(InvalidTypeError, match="GenerationConfig"):
        mdm.generate(model, prompts(), generation_config={"num_beams": 4})


@pytest.mark.parametrize("stored", [5, [["steps", 4]], "steps", {"steps": 0}, {"stepps": 4}])
def test_stored_options_that_are_none_are_refused_with_their_file(stored, tmp_path):
    folder = shutil.copytree(demo_models.path("code"), tmp_path / "code")
    (folder / "generation_config.json").write_text(json.dumps({"masked_diffusion": stored}))
    with pytest.raises(FormatError, match=r"generation_config\.json"):
        mdm.AutoModelForMaskedDiffusion.from_pretrained(folder)
