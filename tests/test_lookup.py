"""`get_schedule`: one string, several sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mdm_schedules as mdm
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    StorageError,
    UnknownNameError,
)
from mdm_schedules.schedules import (
    Beta,
    EnergyOptimal,
    Linear,
    Polynomial,
    Tabulated,
    schedules,
)


def test_get_schedule_with_parameters() -> None:
    assert mdm.get_schedule("beta", a=0.9, b=0.3) == Beta(0.9, 0.3)
    assert mdm.get_schedule("beta(a=0.9)", b=0.3) == Beta(0.9, 0.3)
    assert mdm.get_schedule("tabulated", alpha=[0, 1]) == Tabulated([0, 1])
    assert mdm.get_schedule("energy_optimal", gamma=Beta(1, 2)) == EnergyOptimal(Beta(1, 2))
    schedule = Beta(1, 2)
    assert mdm.get_schedule(schedule) is schedule


@pytest.mark.parametrize(
    ("spec", "params", "error", "parts"),
    [
        ("beta(a=0.9)", {"a": 1}, InvalidValueError, ["'a' is given twice"]),
        ("beta(a=1, b=1, a=2)", {}, InvalidValueError, ["given twice"]),
        ("beta(1, 1, a=2)", {}, InvalidValueError, ["multiple values", "beta(a, b)"]),
        ("beta", {}, InvalidValueError, ["missing", "'a'", "beta(a, b)"]),
        ("beta(0.9)", {}, InvalidValueError, ["missing", "'b'", "beta(a, b)"]),
        ("beta(1, 2, 3)", {}, InvalidValueError, ["too many", "beta(a, b)"]),
        ("beta(alfa=1, b=2)", {}, InvalidValueError, ["no parameter 'alfa'", "beta(a, b)"]),
        ("polynomial", {"power": 2}, InvalidValueError, ["no parameter 'power'", "polynomial(p)"]),
        (
            "geometric(sigma_mim=1)",
            {},
            InvalidValueError,
            ["sigma_mim", "Did you mean 'sigma_min'"],
        ),
        ("linear", {"a": 1}, InvalidValueError, ["no parameter 'a'", "linear()", "It takes none"]),
        ("beta(a=0, b=1)", {}, InvalidValueError, ["'beta'", "a must be", "(0, ", "got 0.0"]),
        ("beta(a='x', b=1)", {}, InvalidTypeError, ["a must be", "'x'"]),
        ("energy_optimal(gamma=beta(a=-1, b=1))", {}, InvalidValueError, ["a must be", "-1"]),
        ("beta(a=nan, b=1)", {}, InvalidValueError, ["a must be a finite number", "nan"]),
        ("beta(a=inf, b=1)", {}, InvalidValueError, ["a must be a finite number", "inf"]),
        (
            "energy_optimal(gamma=bta(a=1, b=1))",
            {},
            UnknownNameError,
            ["'bta'", "Did you mean 'beta'"],
        ),
        ("energy_optimal(gamma=sin)", {}, UnknownNameError, ["'sin'", "Did you mean 'sine'"]),
        ("LINEAR", {}, UnknownNameError, ["'LINEAR'", "Did you mean 'linear'"]),
        ("tabulated([0.5, 1])", {}, InvalidValueError, ["got 0.5 to 1.0"]),
        ("tabulated([0, 0.5, 0.5, 1])", {}, InvalidValueError, ["knot 2 is 0.5 after 0.5"]),
        ("tabulated([0, 1e999, 1])", {}, InvalidValueError, ["got inf"]),
        (
            "bta",
            {},
            UnknownNameError,
            ["no schedule is named 'bta'", "Did you mean 'beta'", "Known: beta, cosine"],
        ),
        ("Beta(a=1, b=1)", {}, UnknownNameError, ["'Beta'", "Did you mean 'beta'"]),
        ("cosin", {}, UnknownNameError, ["Did you mean 'cosine'"]),
        ("zzz", {}, UnknownNameError, ["'zzz'", "Known:"]),
        ("", {}, UnknownNameError, ["''"]),
        ("params", {"spec_": 1}, UnknownNameError, ["'params'"]),
    ],
)
def test_errors_say_what_was_given_and_what_is_right(
    spec: str, params: dict[str, object], error: type[Exception], parts: list[str]
) -> None:
    with pytest.raises(error) as caught:
        mdm.get_schedule(spec, **params)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize(
    "spec", [None, 5, 0.5, b"linear", ["linear"], {"name": "linear"}, Linear, object()]
)
def test_what_is_no_spec(spec: object) -> None:
    with pytest.raises(
        InvalidTypeError, match=r"a schedule must be a name.*for example get_schedule\("
    ):
        mdm.get_schedule(spec)  # type: ignore[arg-type]


def test_parameters_for_something_already_built(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidValueError, match=r"\['a'\] cannot be added to linear\(\), which is already built"
    ):
        mdm.get_schedule(Linear(), a=1)
    Linear().save_pretrained(tmp_path)
    with pytest.raises(InvalidValueError, match="cannot be added to the schedule saved in"):
        mdm.get_schedule(tmp_path, a=1)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    schedule = Beta(0.9, 0.3)
    schedule.save_pretrained(tmp_path / "mine")
    for spec in (
        tmp_path / "mine",
        str(tmp_path / "mine"),
        "./mine",
        "mine",
        "mine/",
        "mine/schedule.json",
    ):
        assert mdm.get_schedule(spec) == schedule
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mdm.get_schedule("~/mine") == schedule
    for missing in (
        "./nobody",
        "nobody/schedule.json",
        "/nobody",
        "~/nobody",
        "~nobody-has-this-name/x",
        "./\0",
        "./\ud800",
    ):
        with pytest.raises(StorageError):
            mdm.get_schedule(missing)


def test_a_folder_does_not_hide_a_schedule_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beta").mkdir()
    Polynomial(3).save_pretrained(tmp_path / "linear")
    assert mdm.get_schedule("linear") == Linear()
    assert mdm.get_schedule("beta", a=1, b=1) == Beta(1, 1)
    assert mdm.get_schedule("./linear") == Polynomial(3)


def test_a_nested_spec_reads_no_file(tmp_path: Path) -> None:
    """Text in a schedule file must not make us read another file, nor the same one forever."""
    Linear().save_pretrained(tmp_path)
    for read in (
        EnergyOptimal,
        schedules.read,
        lambda text: mdm.get_schedule(f"energy_optimal(gamma={text!r})"),
    ):
        with pytest.raises(UnknownNameError):
            read(str(tmp_path))
    document = json.loads((tmp_path / "schedule.json").read_text())
    document |= {"name": "energy_optimal", "params": {"gamma": str(tmp_path)}}
    (tmp_path / "schedule.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="no schedule is named"):
        mdm.get_schedule(tmp_path)
