"""Small pipelines of diffusers, and the example that builds them."""

import importlib.util

import pytest
from pipelines import EXAMPLE

import mdm_schedules as mdm


@pytest.fixture(scope="package")
def example():
    spec = importlib.util.spec_from_file_location("diffusers_swap", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="package")
def text_model(example):
    return example.tiny_text_model()


@pytest.fixture
def pipe(text_model):
    pipe = mdm.MaskedDiffusionPipeline(
        text_model[0], mdm.MaskedDiffusionScheduler(2, "beta(a=0.9, b=0.3)"), text_model[1]
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
