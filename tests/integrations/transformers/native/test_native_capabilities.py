"""Every native class does all that models do here."""

import native_models
import pytest
import torch
from accelerate_jobs import run
from capabilities import CAPABILITIES

import mdm_schedules as mdm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", params=native_models.KINDS)
def model(request):
    return native_models.build(request.param)


@pytest.fixture(scope="module")
def tokenizer():
    return native_models.tokenizer()


@pytest.mark.parametrize("name", CAPABILITIES)
def test_it_can(model, tokenizer, name):
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    CAPABILITIES[name](model, tokenizer)
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path):
    native_models.save(tmp_path, "mdm_glm4_moe")
    prompts = [f"w{i} " * (3 + i % 4) for i in range(6, 13)]
    options = {"max_new_tokens": 8, "steps": 4, "seed": 1, "temperature": 1.0}
    want = native_models.job(tmp_path, prompts, **options)
    both = run(2, native_models.job, tmp_path, prompts, **options)
    assert both[0] == want
    assert len(want) == 7
    assert isinstance(want[0]["answer"], str)
    assert mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path).config.block_length == 8
