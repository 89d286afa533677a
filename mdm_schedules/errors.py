"""Every error the library raises on purpose, and the checks that raise the commonest ones.

All derive from `MDMError`; each also derives from the builtin that a caller would expect to catch.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any


class MDMError(Exception):
    """Base class of all errors raised by mdm_schedules."""


class InvalidValueError(MDMError, ValueError):
    """A value of the right type that lies outside what is allowed."""


class InvalidTypeError(MDMError, TypeError):
    """An argument of a type that the call cannot use."""


class UnknownNameError(MDMError, KeyError):
    """A name (of a schedule, policy, adapter, preset, ...) that nothing provides."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class PluginError(MDMError):
    """A third-party package registered something that clashes or cannot be loaded."""


class FormatError(MDMError, ValueError):
    """A file or repository whose content is not what its format says."""


class StorageError(MDMError, OSError):
    """A file or repository that cannot be found, read or written.

    Attributes:
        finished: of a study of tuning, the trials that had finished.
    """

    finished: Sequence[Any] = ()


class ObjectiveError(MDMError):
    """An objective of tuning that failed, or whose answer is no score. The trials that had finished
    are kept.

    Attributes:
        finished: those trials (`mdm_schedules.tuning.Trial`).
    """

    finished: Sequence[Any] = ()


class DistributedError(MDMError, RuntimeError):
    """A process of a job on several processes failed, fell silent, or was given other arguments
    than the rest.
    """


class MissingExtraError(MDMError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def shown(value: Any) -> str:
    """`repr(value)`, cut to a length that fits into a message; never fails."""
    try:
        return _SHORT.repr(value)
    except Exception:  # Python refuses to print an integer of more than 4300 digits
        return f"a value of type {type(value).__name__} that cannot be printed"


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error for an optional `package` that the given extra of this distribution installs."""
    return MissingExtraError(
        f"{package} is not installed; run: pip install 'mdm-schedules[{extra}]'"
    )


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """' Did you mean ...? Known: ...' for an unknown `name`; upper and lower case are near to each
    other.
    """
    known = sorted(set(choices))
    lower = {choice.lower(): choice for choice in known}
    close = [
        lower[key] for key in difflib.get_close_matches(name[:80].lower(), lower, n=3, cutoff=0.5)
    ]
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."


def check_int(name: str, value: Any, low: int, high: int | None = None, example: str = "") -> int:
    """`value` as an int in [low, high]; bools, floats and everything else are refused by name."""
    bounds = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high}]"
    hint = f"; for example {example}" if example else ""
    try:
        if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
            raise TypeError
        number = operator.index(value)
    except (TypeError, RuntimeError):  # RuntimeError: a tensor without data
        raise InvalidTypeError(f"{name} must be {bounds}, got {shown(value)}{hint}") from None
    if number < low or (high is not None and number > high):
        raise InvalidValueError(f"{name} must be {bounds}, got {shown(number)}{hint}")
    return number


def check_real(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """`value` as a finite float between `low` and `high` (ends excluded where *_open).

    Real numbers only, numpy's among them: a tensor would lose its device and its gradient without a
    word.
    """
    left = "(" if low_open or low == -math.inf else "["
    right = ")" if high_open or high == math.inf else "]"
    bounds = f"a finite number in {left}{low:g}, {high:g}{right}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"{name} must be {bounds}, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise InvalidValueError(
            f"{name} must be {bounds}, got a number too large for a float"
        ) from None
    too_low = number < low or (low_open and number == low)
    too_high = number > high or (high_open and number == high)
    if not math.isfinite(number) or too_low or too_high:
        raise InvalidValueError(f"{name} must be {bounds}, got {number!r}")
    return number
