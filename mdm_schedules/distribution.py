"""Distributions over short sequences, small enough to enumerate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, shown


def check_distribution(p: Any, max_states: int, remedy: str) -> npt.NDArray[np.float64]:
    """`p` as float64 probabilities [d]*n, one axis per token, divided by their sum.

    Args:
        max_states: the most partly masked sequences, (d + 1)^n, that the caller can enumerate.
        remedy: what the error tells to do with larger ones.

    Raises:
        InvalidTypeError, InvalidValueError: not real numbers, of unequal axes, too many states,
            negative, not finite, or of a sum that is not 1 within 1e-6.
    """
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
