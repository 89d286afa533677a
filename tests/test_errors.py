"""Each error is an MDMError and the expected builtin; checks name value, range and remedy."""

from __future__ import annotations

import decimal
import fractions
import math
import pickle

import numpy as np
import pytest
import torch

from mdm_schedules import errors
from mdm_schedules.checks import check_int, check_real, did_you_mean, missing_extra, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError

CLASSES = [
    cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)
]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_an_mdm_error_that_prints_and_pickles(cls: type[MDMError]) -> None:
    assert issubclass(cls, MDMError)
    error = cls("something's wrong")
    assert str(error) == "something's wrong"
    assert str(pickle.loads(pickle.dumps(error))) == "something's wrong"
    assert str(cls()) == ""


def test_the_builtins_behind_them() -> None:
    pairs = {
        "InvalidValueError": ValueError,
        "InvalidTypeError": TypeError,
        "UnknownNameError": KeyError,
        "FormatError": ValueError,
        "StorageError": OSError,
        "MissingExtraError": ImportError,
    }
    for name, builtin in pairs.items():
        assert issubclass(getattr(errors, name), builtin)
    message = str(missing_extra("optuna", "tune"))
    assert message == "optuna is not installed; run: pip install 'mdm-schedules[tune]'"


def test_did_you_mean() -> None:
    assert (
        did_you_mean("cosin", ["sine", "cosine"])
        == " Did you mean 'cosine' or 'sine'? Known: cosine, sine."
    )
    assert (
        did_you_mean("LINEAR", ["linear", "Beta"]) == " Did you mean 'linear'? Known: Beta, linear."
    )
    assert "'Sine'" in did_you_mean("sine", ["linear", "Sine"])
    assert did_you_mean("zzz", ["b", "a", "a"]) == " Known: a, b."
    assert did_you_mean("x", []) == " Known: none."
    assert len(did_you_mean("x" * 10**7, ["beta"])) < 100


def test_check_int() -> None:
    for value in (3, np.int8(3), np.uint64(3), torch.tensor(3)):
        number = check_int("k", value, 1, 5)
        assert number == 3
        assert type(number) is int
    for low, high, words in ((1, 5, r"in \[1, 5\]"), (1, None, ">= 1")):
        with pytest.raises(
            InvalidValueError, match=rf"k must be an integer {words}, got 0; for example f\(k=2\)"
        ):
            check_int("k", 0, low, high, example="f(k=2)")
        for bad in (
            True,
            3.0,
            "3",
            None,
            np.float64(3),
            np.True_,
            torch.tensor(True),
            torch.tensor([1, 2]),
            3j,
            [3],
        ):
            with pytest.raises(InvalidTypeError, match=rf"k must be an integer {words}, got"):
                check_int("k", bad, low, high)
    with pytest.raises(InvalidValueError, match="cannot be printed"):
        check_int("k", 10**5000, 1, 5)


def test_check_real() -> None:
    for value in (1, 1.0, np.float16(1), np.int64(1), fractions.Fraction(1)):
        number = check_real("x", value, 0, 2)
        assert number == 1
        assert type(number) is float
    for bad in (
        True,
        "1",
        None,
        1j,
        [1],
        np.True_,
        np.array(1.0),
        torch.tensor(1.0),
        decimal.Decimal(1),
        object(),
    ):
        with pytest.raises(InvalidTypeError, match=r"x must be a finite number in \[0, 2\], got"):
            check_real("x", bad, 0, 2)
    for value in (
        -1,
        3,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        -(10**5000),
        fractions.Fraction(10**400),
    ):
        with pytest.raises(InvalidValueError, match=r"x must be a finite number in \[0, 2\], got"):
            check_real("x", value, 0, 2)
    assert check_real("x", 0, 0) == 0
    for value, message in ((0, r"in \(0, 2\), got 0\.0"), (2, r"in \(0, 2\), got 2\.0")):
        with pytest.raises(InvalidValueError, match=message):
            check_real("x", value, 0, 2, low_open=True, high_open=True)
    with pytest.raises(InvalidValueError, match=r"in \(-inf, inf\), got nan"):
        check_real("x", math.nan)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


LONG = ["x" * 10**7, b"x" * 10**7, list(range(10**6)), torch.zeros(10**6), 10**5000, Unprintable()]


@pytest.mark.parametrize("value", LONG, ids=lambda value: type(value).__name__)
def test_shown_is_short_and_never_fails(value: object) -> None:
    assert 0 < len(shown(value)) < 300


def test_shown_is_repr_where_that_is_short() -> None:
    for value in (1, 0.1, "x", None, (1, 2), [1], {"a": 1}, np.True_):
        assert shown(value) == repr(value)
