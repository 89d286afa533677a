"""Schedules in OmniVoice: a stand-in of its loop, and its own function where it is installed."""

import math
import sys
import threading
from pathlib import Path

import pytest
import torch

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidValueError, MissingExtraError, UnknownNameError
from mdm_schedules.integrations import omnivoice as bridge

STANDINS = Path(__file__).parents[2] / "support/standins"
LENGTHS = [3, 40, 17]


@pytest.fixture
def voice(monkeypatch):
    monkeypatch.syspath_prepend(str(STANDINS))
    for name in [name for name in sys.modules if name.split(".")[0] == "omnivoice"]:
        monkeypatch.delitem(sys.modules, name)
    from omnivoice.models import omnivoice

    yield omnivoice
    for name in [name for name in sys.modules if name.split(".")[0] == "omnivoice"]:
        del sys.modules[name]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shift", [0.1, 0.37, 1.0, 4.0])
@pytest.mark.parametrize("steps", [7, 16, 32])
def test_omnivoices_tokens_with_its_own_schedule(voice, shift, steps):
    model = voice.OmniVoice()
    own = model.generate(LENGTHS, num_step=steps, t_shift=shift)
    plans = model.plans
    with mdm.integrations.omnivoice.schedule(mdm.Shifted(shift), own_rounding=True):
        ours = model.generate(LENGTHS, num_step=steps, t_shift=9.0)
    assert model.plans == plans
    assert equal(ours, own)


@pytest.mark.parametrize("spec", ["beta(a=0.9, b=0.3)", "shifted(shift=0.1)", "linear"])
def test_ours_by_our_plan_and_no_pass_is_wasted(voice, spec):
    model = voice.OmniVoice()
    with bridge.schedule(spec, steps=16) as chosen:
        tokens = model.generate(LENGTHS)
    plans = [chosen.plan(2 * length, 16).tolist() for length in LENGTHS]
    assert model.plans == plans
    assert model.passes[-1] == [min(16, 2 * length) for length in LENGTHS]
    assert all(int(row.max()) < voice.MASK for row in tokens)
    with bridge.schedule(spec, steps=16, own_rounding=True):
        model.generate(LENGTHS)
    # each step rounded up: the last ones may have nothing left
    for plan, length in zip(model.plans, LENGTHS, strict=True):
        grid = chosen.alpha(torch.linspace(0, 1, 17))
        shares = (2 * length * grid.double().diff()).tolist()
        taken = 0
        for count, share in zip(plan[:-1], shares, strict=False):
            assert count == min(math.ceil(share), 2 * length - taken)
            taken += count


def test_outside_and_in_other_threads_nothing_changes(voice):
    model = voice.OmniVoice()
    own = model.generate(LENGTHS)
    seen = []
    with bridge.schedule("cosine", steps=4):
        assert not equal(model.generate(LENGTHS), own)
        with bridge.schedule("linear"):
            model.generate([8], num_step=4)
            assert model.plans == [[4, 4, 4, 4]]
        thread = threading.Thread(target=lambda: seen.append(voice.OmniVoice().generate(LENGTHS)))
        thread.start()
        thread.join()
    assert equal(seen[0], own)
    assert equal(model.generate(LENGTHS), own)
    with pytest.raises(RuntimeError), bridge.schedule("cosine"):
        raise RuntimeError
    assert equal(model.generate(LENGTHS), own)


def test_bad_input(voice, monkeypatch):
    with pytest.raises(InvalidValueError, match="steps must be"), bridge.schedule("linear", 0):
        pass
    with pytest.raises(UnknownNameError, match="shifted"), bridge.schedule("shiftet"):
        pass
    monkeypatch.delattr(voice, "_get_time_steps")
    with (
        pytest.raises(MissingExtraError, match=r"omnivoice==0\.2\.1"),
        bridge.schedule("linear"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "omnivoice.models", None)
    monkeypatch.setitem(sys.modules, "omnivoice", None)
    with (
        pytest.raises(MissingExtraError, match=r"mdm-schedules\[omnivoice\].*0\.2\.1"),
        bridge.schedule("linear"),
    ):
        pass


def test_the_released_function_is_the_schedule():
    """Where OmniVoice is installed: its grid of times is alpha of `shifted`."""
    omnivoice = pytest.importorskip("omnivoice.models.omnivoice", exc_type=ImportError)
    for shift in (0.1, 1.0, 3.0):
        grid = omnivoice._get_time_steps(num_step=32, t_shift=shift)
        torch.testing.assert_close(mdm.Shifted(shift).alpha(torch.linspace(0, 1, 33)), grid)
