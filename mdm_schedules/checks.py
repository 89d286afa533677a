"""The checks that stand at every door: numbers, names, distributions, and how values are shown."""

from __future__ import annotations

import difflib
import logging
import math
import numbers
import operator
import reprlib
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def shown(value: Any) -> str:
    """`repr(value)`, cut to a length that fits into a message; never fails."""
    try:
        return _SHORT.repr(value)
    except Exception:  # Python refuses to print an integer of more than 4300 digits
        return f"a value of type {type(value).__name__} that cannot be printed"


@cache
def say_once(text: str) -> None:
    """Warn in the log, once per process for the same text."""
    logging.getLogger("mdm_schedules").warning(text)


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error for an optional `package` that the given extra of this distribution installs."""
    return MissingExtraError(
        f"{package} is not installed; run: pip install 'mdm-schedules[{extra}]'"
    )


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """' Did you mean ...? Known: ...' for an unknown `name`.

    Upper and lower case are near to each other.
    """
    known = sorted(set(choices))
    lower = {choice.lower(): choice for choice in known}
    close = [
        lower[key] for key in difflib.get_close_matches(name[:80].lower(), lower, n=3, cutoff=0.5)
    ]
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."


def plain_value(name: str, value: Any) -> Any:
    """Arrays and tensors as Python's numbers, others unchanged; a tensor must hold values."""
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except RuntimeError:
        raise InvalidTypeError(f"{name} must be plain numbers, got {shown(value)}") from None


def check_int(name: str, value: Any, low: int, high: int | None = None, example: str = "") -> int:
    """`value` as an int in [low, high]; bools, floats and everything else are refused by name."""
    bounds = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high}]"
    hint = f"; for example {example}" if example else ""
    try:
        # True is an int to Python, and a 0-d bool tensor to operator.index; both are mistakes here.
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


def check_distribution(p: Any, max_states: int, remedy: str) -> npt.NDArray[np.float64]:
    """`p` as float64 probabilities [d]*n, one axis per token, divided by their sum.

    Args:
        max_states: the most partly masked sequences, (d + 1)^n, that the caller can enumerate.
        remedy: what the error advises for larger ones.

    Raises:
        InvalidTypeError, InvalidValueError: not real numbers, of unequal axes, too many states,
            negative, not finite, or of a sum that is not 1 within 1e-6.
    """
    import numpy as np
    import torch

    example = "for example torch.full((2, 2, 2), 1 / 8)"
    try:
        # numpy has no bfloat16
        array = np.asarray(
            p.detach().cpu().double()
            if isinstance(p, torch.Tensor) and p.is_floating_point()
            else p
        )
        if array.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(
            f"distribution must be real probabilities [d]*n, got {shown(p)}; {example}"
        ) from None
    n, d = array.ndim, array.shape[0] if array.ndim else 0
    if d == 0 or set(array.shape) != {d}:
        raise InvalidValueError(
            f"distribution must have n axes of equal length d, got {array.shape}; {example}"
        )
    # Each axis gets one more state, the mask.
    if (d + 1) ** n > max_states:
        raise InvalidValueError(
            f"{n} tokens of {d} letters have (d+1)^n = {(d + 1) ** n} partly masked sequences, at "
            f"most {max_states} "
            f"can be enumerated; {remedy}"
        )
    array = array.astype(np.float64)
    bad = array[~(array >= 0) | np.isinf(array)]
    if len(bad):
        raise InvalidValueError(f"distribution must hold finite probabilities >= 0, got {bad[0]}")
    if abs(array.sum() - 1) > 1e-6:
        raise InvalidValueError(
            f"distribution must sum to 1 within 1e-6, got {float(array.sum())!r}"
        )
    normalised: npt.NDArray[np.float64] = array / array.sum()
    return normalised
