"""Schedules are values: equal, hashable, copied and pickled."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from schedule_cases import EXAMPLES, named

from mdm_schedules.errors import FormatError
from mdm_schedules.schedules import (
    Beta,
    EnergyOptimal,
    Linear,
    LogLinear,
    Schedule,
    Tabulated,
)
from mdm_schedules.testing import check_schedule


@named
def test_schedules_are_values(schedule: Schedule) -> None:
    for twin in (
        copy.copy(schedule),
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
    ):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert {twin, schedule} == {schedule}
    assert schedule != "linear"
    with pytest.raises(AttributeError):
        schedule.extra = 1  # type: ignore[attr-defined]
    for field in dataclasses.fields(schedule):  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            setattr(schedule, field.name, 1)
        with pytest.raises(AttributeError):
            delattr(schedule, field.name)


def test_equal_means_same_family_and_parameters() -> None:
    assert Beta(1, 0.5) == Beta(1.0, np.float64(0.5))
    assert Beta(1, 0.5) != Beta(0.5, 1)
    assert Linear() != LogLinear()
    assert Tabulated([0, 0.5, 1]) != Tabulated([0, 0.4, 1])
    assert EnergyOptimal("linear") == EnergyOptimal(Linear())
    assert len({repr(schedule) for schedule in EXAMPLES}) == len(set(EXAMPLES)) == len(EXAMPLES)
    assert repr(Beta(0.9, 0.3)) == "beta(a=0.9, b=0.3)"
    assert repr(Beta(np.float32(0.5), 1)) == "beta(a=0.5, b=1.0)"


@pytest.mark.slow
def test_pickles_travel_between_processes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    savable = list(EXAMPLES)
    file = tmp_path / "schedules.pickle"
    file.write_bytes(pickle.dumps(savable))
    code = (
        "import pickle, sys\n"
        "with open(sys.argv[1], 'rb') as file: schedules = pickle.load(file)\n"
        "for s in schedules: print(repr(s), s.alpha(0.3).hex(), sep='|')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == [
        f"{schedule!r}|{schedule.alpha(0.3).hex()}" for schedule in savable
    ]


def test_an_optimum_for_a_function_works_but_cannot_be_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    schedule = EnergyOptimal(lambda t: (t + t**2) / 2)
    check_schedule(schedule, registered=False)
    assert schedule.plan(100, 7).sum() == 100
    assert repr(schedule).startswith("energy_optimal(gamma=<function")
    with pytest.raises(
        FormatError,
        match="energy_optimal cannot be written as text or saved: its gamma is <function",
    ):
        _ = schedule.spec
    with pytest.raises(FormatError, match="cannot be written"):
        schedule.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    check_schedule(Tabulated(schedule.alpha(t)))
    single = EnergyOptimal(lambda t: t.float())  # a function may round
    assert single.alpha(torch.tensor([0.3], dtype=torch.float64)).dtype == torch.float64
