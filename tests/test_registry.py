"""Spec strings: read as data, never run, and refused with a clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

import mdm_schedules as mdm
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    UnknownNameError,
)
from mdm_schedules.schedules import (
    Beta,
    EnergyOptimal,
    Linear,
    LogLinear,
    Polynomial,
    Schedule,
    Tabulated,
    schedules,
)


@pytest.mark.parametrize(
    ("spec", "schedule"),
    [
        ("linear", Linear()),
        (" linear\n", Linear()),
        ("linear()", Linear()),
        ("log-linear", LogLinear()),
        ("log_linear", LogLinear()),
        ("beta(a=0.9, b=0.3)", Beta(0.9, 0.3)),
        ("  beta (\n  a = .9 ,\tb=3e-1,\n)  ", Beta(0.9, 0.3)),
        ("beta(0.9, 0.3)", Beta(0.9, 0.3)),
        ("beta(0.9, b=0.3)", Beta(0.9, 0.3)),
        ("beta(b=+1, a=1_0)", Beta(10, 1)),
        ("polynomial", Polynomial(2)),
        ("polynomial(p=3) # cubic", Polynomial(3)),
        ("tabulated([0, 0.2, 1])", Tabulated([0, 0.2, 1])),
        ("tabulated(alpha=(0, .2, 1), t=[0, .5, 1])", Tabulated([0, 0.2, 1], [0, 0.5, 1])),
        ("energy_optimal", EnergyOptimal()),
        ("energy_optimal(gamma=None)", EnergyOptimal()),
        ("energy_optimal(gamma=beta(a=1, b=2))", EnergyOptimal(Beta(1, 2))),
        ("energy_optimal(gamma='beta(a=1, b=2)')", EnergyOptimal(Beta(1, 2))),
        ('energy_optimal("sine")', EnergyOptimal("sine")),
        ("energy_optimal(gamma=sine)", EnergyOptimal("sine")),
        ("energy_optimal(log_linear)", EnergyOptimal("log_linear")),
        (
            "energy_optimal(energy_optimal(energy_optimal(linear())))",
            EnergyOptimal(EnergyOptimal(EnergyOptimal("linear"))),
        ),
    ],
)
def test_specs(spec: str, schedule: Schedule) -> None:
    assert mdm.get_schedule(spec) == schedule
    assert mdm.get_schedule(repr(schedule)) == schedule
    assert mdm.get_schedule(schedule.spec) == schedule


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # Python's own, about odd syntax
@pytest.mark.parametrize(
    "spec",
    [
        "__import__('os').system('x')()",
        "__import__('os').system('touch hacked')",
        "beta(a=__import__('os').system('touch hacked'), b=1)",
        "beta(a=open('hacked', 'w'), b=1)",
        "beta.__class__()",
        "mdm_schedules.Beta(a=1, b=1)",
        "(lambda: 1)()",
        "beta(a=lambda: 1, b=1)",
        "beta(a=[x for x in (1,)], b=1)",
        "beta(a=(yield), b=1)",
        "beta(a=(x := 1), b=1)",
        "beta(a=f'{1}', b=1)",
        "beta(a=True if 1 else 2, b=1)",
        "beta(a=0.5 ** 2, b=1)",
        "beta(a=9**9**9, b=1)",
        "beta(a=b.c, b=1)",
        "beta(a=x[0], b=1)",
        "beta(*[1, 1])",
        "beta(**{'a': 1, 'b': 1})",
        "beta(a=1)(b=1)",
        "beta(a={[1]: 1}, b=1)",
        "beta(a={[1]}, b=1)",
        "beta(a=1, b=1",
        "beta)a=1, b=1(",
        "beta(a=1 b=1)",
        "beta(a=1, b=1); linear()",
        "beta(a=1, b=1)\nlinear()",
        "beta(a=1, b=1) or 1",
        "beta(a=1\0, b=1)",
        "beta(a=1, 1)",
        "()",
        "(beta)(",
        "'beta'(a=1)",
        "\ud800(a=1)",
        "beta(a=..., b=1)",
        "beta(a=1, b=" + "9" * 5000 + ")",
    ],
)
def test_specs_are_read_and_never_run(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MDMError) as caught:
        mdm.get_schedule(spec)
    assert isinstance(caught.value, ValueError | TypeError | KeyError)
    assert len(str(caught.value)) < 600
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spec",
    [
        "beta(a=" + "(" * 100_000 + "1" + ")" * 100_000 + ", b=1)",
        "beta(a=" + "[" * 150 + "]" * 150 + ", b=1)",
        "beta(a=" + "-" * 100_000 + "1, b=1)",
        "beta(a=1" + "+1" * 100_000 + ", b=1)",
        "beta(a=" + "not " * 100_000 + "1, b=1)",
        "beta" + "()" * 100_000,
        "beta" + ".a" * 100_000 + "()",
        "energy_optimal(" * 30 + ")" * 30,
        "energy_optimal(" * 100_000 + ")" * 100_000,
        "x" * (1 << 22),
        "beta(" + "1," * (1 << 22) + ")",
        "y" * 100_000_000,
    ],
    ids=lambda spec: f"{spec[:12]}, {len(spec)} characters",
)
def test_long_and_deep_specs(spec: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError, UnknownNameError)) as caught:
        mdm.get_schedule(spec)
    assert len(str(caught.value)) < 600


def test_depth_up_to_sixteen_reads_back() -> None:
    schedule: Schedule = Linear()
    for _ in range(16):
        schedule = EnergyOptimal(schedule)
    assert mdm.get_schedule(repr(schedule)) == schedule
    with pytest.raises(InvalidValueError, match="cannot read the schedule spec"):
        mdm.get_schedule(repr(EnergyOptimal(schedule)))


def test_parse_spec_takes_apart_only() -> None:
    assert schedules.parse("nobody(1, x=[2, 'three'])") == ("nobody", [1], {"x": [2, "three"]})
    assert schedules.parse("a-b") == ("a_b", [], {})
