"""The interface between the loop and a model: guidance, rows that end, and who counts as what."""

import dataclasses
import inspect
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.models import (
    Denoiser,
    ModelAdapter,
    ModelDenoiser,
    Pass,
    as_denoiser,
    evaluating,
)
from mdm_schedules.models.denoiser import FunctionDenoiser, takes_padding

V, MASK = 7, 6


class Summing(ModelAdapter):
    """Logits from a table by token, and by the sum of the row's real tokens."""

    name = "summing"
    head_takes_rows = False

    def __init__(self):
        super().__init__(nn.Linear(1, 1))
        self.seen = []
        self.table = torch.randn(V, V, generator=torch.Generator().manual_seed(0))

    def forward(self, tokens, attention_mask):
        self.seen.append((tokens.clone(), attention_mask))
        real = tokens if attention_mask is None else tokens * attention_mask
        return self.table[tokens] * real.sum(1)[:, None, None]


TOKENS = torch.tensor([[1, 2, MASK, MASK], [3, 4, MASK, MASK], [0, 5, MASK, MASK]])
PROMPT = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]]).bool()
REAL = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]).bool()


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("mask", [None, REAL])
def test_guidance_is_the_formula(scale, mask):
    adapter, rows = Summing(), torch.tensor([2, 3, 4 + 2, 8 + 3])
    denoiser = ModelDenoiser(adapter, mask, PROMPT, MASK, scale)
    answer = denoiser(TOKENS, rows)
    ((tokens, seen),) = adapter.seen  # one pass for both
    blind = torch.where(PROMPT, MASK, TOKENS)
    assert torch.equal(tokens, torch.cat([TOKENS, blind]))
    assert seen is None if mask is None else torch.equal(seen, torch.cat([mask, mask]))
    with_prompt, without = (
        Summing().forward(row, mask).flatten(0, 1)[rows] for row in (TOKENS, blind)
    )
    expected = without + (scale + 1) * (with_prompt - without)
    torch.testing.assert_close(answer, expected)


def test_without_guidance_the_logits_are_the_models():
    adapter, rows = Summing(), torch.tensor([2, 7])
    logits, index = ModelDenoiser(adapter, REAL)(TOKENS, rows)
    torch.testing.assert_close(logits[index], Summing().forward(TOKENS, REAL).flatten(0, 1)[rows])


def test_shorter_sequences_and_fewer_rows_get_their_own_mask_and_prompt():
    adapter = Summing()
    denoiser = ModelDenoiser(adapter, REAL, PROMPT, MASK, 1.0)
    denoiser(TOKENS[:, :3], torch.tensor([2]))
    tokens, mask = adapter.seen.pop()
    assert torch.equal(mask, REAL[:, :3].repeat(2, 1))
    assert tokens[3:].tolist() == [[MASK, MASK, MASK], [MASK, MASK, MASK], [0, MASK, MASK]]
    denoiser.keep(torch.tensor([0, 2]))
    denoiser(TOKENS[[0, 2]], torch.tensor([2]))
    tokens, mask = adapter.seen.pop()
    assert torch.equal(mask, REAL[[0, 2]].repeat(2, 1))
    assert tokens[2:].tolist() == [[MASK] * 4, [0, MASK, MASK, MASK]]


class Cache:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        def note(*args):
            self.told.append((name, *args))
            return torch.zeros(4, V) if name == "logits" else None

        return note


def test_a_cache_is_told_of_passes_rows_and_the_end():
    for prompt, rows in ((None, [0, 2]), (PROMPT, [0, 2, 3, 5])):
        cache = Cache()
        denoiser = ModelDenoiser(Summing(), None, prompt, MASK, 1.0, cache)
        denoiser.at("a pass")
        denoiser(TOKENS, torch.tensor([2, 3]))
        denoiser.keep(torch.tensor([0, 2]))
        denoiser.close()
        names = [name for name, *_ in cache.told]
        assert names == ["at", "logits", "keep", "close"]
        assert cache.told[0][1] == "a pass"
        assert cache.told[2][1].tolist() == rows
    plain = ModelDenoiser(Summing())
    plain.at("a pass"), plain.keep(torch.tensor([0])), plain.close()


# --- who is what


def test_a_function_of_tokens_and_rows_is_a_denoiser():
    def function(tokens, rows):
        return torch.zeros(len(rows), V)

    class Keeps:
        def __call__(self, tokens, rows, extra=None):
            return torch.zeros(len(rows), V)

        def keep(self, rows):
            self.kept = rows.tolist()

    made = as_denoiser(function)
    assert isinstance(made, FunctionDenoiser)
    assert made.whole_batch
    assert made(TOKENS, torch.tensor([1, 2])).shape == (2, V)
    keeps = Keeps()
    made = as_denoiser(keeps)
    assert not made.whole_batch
    made.keep(torch.tensor([1]))
    assert keeps.kept == [1]


@pytest.mark.parametrize(
    "function",
    [
        lambda tokens: tokens,
        lambda tokens, temperature=1.0: tokens,
        lambda tokens, *rest: tokens,
        lambda tokens, *, rows=None: tokens,
        lambda tokens, **options: tokens,
        nn.Linear(2, 2),
        max,
    ],
)
def test_what_takes_tokens_alone_is_a_model(function):
    made = as_denoiser(function)
    assert isinstance(made, ModelDenoiser)
    assert made.adapter.name == "callable"


def test_what_hides_its_arguments_is_a_model():
    class Hidden:
        __signature__ = 3

        def __call__(self, tokens):
            return tokens

    with pytest.raises(TypeError):
        inspect.signature(Hidden())
    assert isinstance(as_denoiser(Hidden()), ModelDenoiser)


def test_a_denoiser_has_to_say_how_it_is_called():
    with pytest.raises(TypeError, match="abstract"):
        type("Mute", (Denoiser,), {})()


def test_the_place_of_a_pass_does_not_change():
    place = Pass(0, 4, 1, 8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        place.step = 2


def test_denoisers_adapters_and_their_makers_are_taken_as_they_are():
    class Mine(Denoiser):
        def __call__(self, tokens, rows):
            return torch.zeros(len(rows), V)

    mine, adapter = Mine(), Summing()
    assert as_denoiser(mine) is mine
    assert as_denoiser(SimpleNamespace(denoiser=lambda: mine)) is mine
    assert as_denoiser(adapter).adapter is adapter
    assert as_denoiser(lambda tokens, rows: tokens, "callable").adapter.name == "callable"
    for model in (3, None, SimpleNamespace(denoiser=5)):
        with pytest.raises(InvalidTypeError):
            as_denoiser(model)
    with pytest.raises(InvalidTypeError):
        as_denoiser(nn.Linear(2, 2), 5)


def test_whether_padding_is_taken_is_found_out_in_eval_mode():
    class Says(Summing):
        def check_padding(self):
            assert not self.model.training
            super().check_padding()

        def _try_padding(self):
            return self.good

    for good in (True, False):
        adapter = Says()
        adapter.model.train()
        adapter.good = good
        assert takes_padding(adapter) is good
        assert adapter.model.training


# --- the mode of a model


def modes(model):
    return [module.training for module in model.modules()]


def test_a_models_mode_comes_back_module_by_module():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model[1].eval()
    before = modes(model)
    assert before == [True, True, False, False, False]
    with evaluating(model):
        assert not any(modes(model))
        assert not torch.is_grad_enabled()
        with evaluating(model[0]):
            assert not any(modes(model))
        assert not any(modes(model))
    assert modes(model) == before
    assert torch.is_grad_enabled()
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert modes(model) == before
    with evaluating(lambda tokens: tokens):
        assert not torch.is_grad_enabled()


def test_the_last_of_three_users_brings_the_mode_back():
    model = nn.Sequential(nn.Dropout())
    with evaluating(model):
        with evaluating(model):
            with evaluating(model):
                pass
            assert not any(modes(model))
        assert not any(modes(model))
    assert all(modes(model))
    assert torch.is_grad_enabled()


def test_the_last_of_several_threads_brings_the_mode_back():
    model = nn.Sequential(nn.Dropout())
    first, second, inside = threading.Event(), threading.Event(), threading.Event()

    def work():
        with evaluating(model):
            inside.set()
            first.wait(30)
        second.set()

    thread = threading.Thread(target=work)
    with evaluating(model):
        thread.start()
        assert inside.wait(30)
        first.set()
        assert second.wait(30)
        assert not any(modes(model))
    thread.join()
    assert all(modes(model))
