"""Schedules in a small random DiffusionGemma, through transformers' own generate."""

import copy
import pickle

import pytest
import torch
from encoders import build as encoder
from gemma import CANVAS, V, build

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, UnknownNameError

NEVER = 1e-9  # of confidence: no early stop


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def bridge(model):
    from mdm_schedules.integrations import diffusion_gemma

    yield diffusion_gemma
    diffusion_gemma.set_schedule(model, None)


@pytest.fixture
def write(model, bridge, monkeypatch):
    """Generates: the tokens, what each pass accepted in the first row, and decoder passes."""
    accepted, renoise = [], bridge.EntropyBoundSampler.renoise_canvas

    def count(sampler, canvas, step):
        accepted.append(int(sampler.accepted_token_mask[0].sum()))
        return renoise(sampler, canvas, step)

    monkeypatch.setattr(bridge.EntropyBoundSampler, "renoise_canvas", count)

    def write(model=model, steps=6, canvases=2, **options):
        accepted.clear()
        passes = []
        handle = model.model.decoder.register_forward_hook(lambda *_: passes.append(1))
        ids = torch.randint(5, 50, (2, 6), generator=torch.Generator().manual_seed(1))
        torch.manual_seed(0)
        options = {"confidence_threshold": NEVER, "pad_token_id": None, **options}
        length = canvases * CANVAS
        try:
            out = model.generate(ids, max_new_tokens=length, max_denoising_steps=steps, **options)
        finally:
            handle.remove()
        assert out.sequences.shape == (2, 6 + length)
        assert out.tokens_per_forward.tolist() == pytest.approx([length / len(passes)] * 2)
        return out.sequences, list(accepted), len(passes)

    return write


@pytest.mark.parametrize("schedule", ["linear", "beta(a=0.9, b=0.3)", "cosine"])
def test_the_accepted_counts_are_the_schedules(model, bridge, write, schedule):
    bridge.set_schedule(model, schedule)
    plan = mdm.get_schedule(schedule).plan(CANVAS, 6).cumsum(0).tolist()
    _, accepted, passes = write()
    assert accepted == plan * 2
    assert passes == 12
    # another number of steps is another plan
    assert write(steps=3)[1] == mdm.get_schedule(schedule).plan(CANVAS, 3).cumsum(0).tolist() * 2


def test_the_models_tokens_with_its_own_rule(model, bridge, write):
    """With its bound beside a schedule that never asks for more."""
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as module

    config = module.DiffusionGemmaGenerationConfig(
        sampler_config=module.EntropyBoundSamplerConfig(entropy_bound=6.0)
    )
    own, counts, _ = write(generation_config=config)
    assert all(count >= step % 6 + 1 for step, count in enumerate(counts))
    bridge.set_schedule(model, "polynomial(p=50)", entropy_bound=True)
    again, taken, _ = write(generation_config=config)
    # the last step of a canvas accepts all by a schedule, and only its prediction counts
    assert [n for i, n in enumerate(taken) if i % 6 != 5] == [
        n for i, n in enumerate(counts) if i % 6 != 5
    ]
    assert torch.equal(again, own)
    bridge.set_schedule(model, "polynomial(p=50)")
    assert not torch.equal(write(generation_config=config)[0], own)
    bridge.set_schedule(model, None)
    assert torch.equal(write(generation_config=config)[0], own)


def test_adaptive_stopping_still_ends_a_canvas_early(model, bridge, write):
    bridge.set_schedule(model, "linear")
    assert write(confidence_threshold=100.0, stability_threshold=0)[2] == 2


def test_what_was_compiled_with_another_schedule_is_not_run(model, bridge, monkeypatch):
    compiled = []

    def compile(function, **options):
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    texts = [
        write_compiled(model, bridge, schedule)
        for schedule in ("linear", "linear", "beta(a=0.9, b=0.3)")
    ]
    assert torch.equal(texts[0], texts[1])
    samplers = [f.__self__ for f in compiled if getattr(f, "__name__", "") == "accept_canvas"]
    assert [len({id(one) for one in samplers}), len(samplers)] == [3, 3]
    for name in [name for name in vars(model) if name.startswith("_compiled_")]:
        delattr(model, name)


def write_compiled(model, bridge, schedule):
    bridge.set_schedule(model, schedule)
    torch.manual_seed(0)
    ids = torch.randint(5, 50, (1, 6))
    out = model.generate(
        ids, max_new_tokens=CANVAS, max_denoising_steps=4, cache_implementation="static"
    )
    return out.sequences


def test_the_rule_compiles_without_a_break(model, bridge):
    bridge.set_schedule(model, "sine", entropy_bound=True)
    sampler = model._prepare_sampler(
        type("Config", (), {
            "max_denoising_steps": 4,
            "sampler_config": type("Bound", (), {"entropy_bound": 0.1})(),
        })()
    )  # fmt: skip
    rule = torch.compile(sampler.accept_canvas, fullgraph=True, backend="eager")
    now, new = torch.zeros(2, CANVAS, dtype=torch.long), torch.ones(2, CANVAS, dtype=torch.long)
    step = torch.tensor(4, dtype=torch.int32)
    accepted = rule(now, new, torch.randn(2, CANVAS, V), step)
    assert accepted.sum(1).tolist() == [int(mdm.Sine().plan(CANVAS, 4)[0])] * 2


def test_a_copy_keeps_its_schedule(model, bridge, write):
    bridge.set_schedule(model, "cosine")
    text, counts, _ = write(steps=4)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin._prepare_sampler.model is twin
        again, taken, _ = write(twin, steps=4)
        assert torch.equal(again, text)
        assert taken == counts


def test_bad_input(model, bridge, write):
    with pytest.raises(UnknownNameError, match="linear"):
        bridge.set_schedule(model, "lineer")
    with pytest.raises(InvalidTypeError, match="got BertForMaskedLM; for a model with masks"):
        bridge.set_schedule(encoder("bert"), "linear")
    bridge.set_schedule(model, "linear")
    with pytest.raises(InvalidValueError, match=r"max_denoising_steps .*\[1, 16\], got 17"):
        write(steps=17)


def test_transformers_without_the_model_is_named():
    import transformers

    from mdm_schedules.errors import MissingExtraError

    if hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
        pytest.skip("this transformers has it")
    with pytest.raises(MissingExtraError, match=r"transformers 4.* 'transformers>=5.11'"):
        mdm.integrations.diffusion_gemma  # noqa: B018
