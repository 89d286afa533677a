"""Masking filled positions again: how many in each pass, and which (ReMDM, arXiv 2503.00307).

A pass that masks m positions again fills m more than the plan asks, so the passes stay as planned.
That bounds m by what is masked and not yet planned for: in the terms of the paper the rate sigma is
at most (1 - alpha_s) / alpha_t. Where alpha_t is the share filled before the pass:

    cap       sigma = min(fraction, sigma_max)
    rescale   sigma = fraction * sigma_max, of which sigma_max is at most 1
    loop      sigma = fraction while the plan stands still, else none
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from mdm_schedules.checks import check_real, did_you_mean, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.registry import Registry, check_named

Integers = np.ndarray[Any, np.dtype[np.int64]]
Truths = np.ndarray[Any, np.dtype[np.bool_]]
Remask = Literal["uniform", "confidence"]
REMASKS = ("uniform", "confidence")


def _rounded(values: np.ndarray[Any, np.dtype[Any]]) -> Integers:
    return np.floor(values + 0.5).astype(np.int64)


@dataclass(frozen=True)
class RemaskFraction(ABC):
    """How much of what a block has filled each pass masks again.

    Attributes:
        fraction: a share in [0, 1].
    """

    fraction: float
    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_real("remask_fraction", self.fraction, 0, 1)

    @abstractmethod
    def wanted(self, done_B: Integers, room_B: Integers, still: bool) -> Integers:
        """Positions [B] to be masked again; at most `room_B` of them will be.

        Args:
            done_B: filled positions of each row.
            room_B: masked ones that the pass is not planned to fill.
            still: whether the plan stands still in this step.
        """

    def still(self, steps: int) -> range:
        """The steps in which the plan stands still; none by default."""
        return range(0)


class Cap(RemaskFraction):
    """The same fraction in every pass, as far as the steps left can fill it again."""

    name = "cap"

    def wanted(self, done_B: Integers, room_B: Integers, still: bool) -> Integers:
        """See `RemaskFraction.wanted`."""
        return _rounded(self.fraction * done_B)


class Rescale(RemaskFraction):
    """A fraction of what can be masked again at all, which is most halfway through the block."""

    name = "rescale"

    def wanted(self, done_B: Integers, room_B: Integers, still: bool) -> Integers:
        """See `RemaskFraction.wanted`."""
        return _rounded(self.fraction * np.minimum(done_B, room_B))


@dataclass(frozen=True)
class Loop(RemaskFraction):
    """Fill most of the block, then mask again and fill while the plan stands still, then end.

    Attributes:
        start, stop: shares of the block's steps between which the plan stands still. It is made for
            the other steps; the first and the last are always among these.
    """

    start: float = 0.45
    stop: float = 0.95
    name: ClassVar[str] = "loop"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("start", self.start, 0, 1)
        if check_real("stop", self.stop, 0, 1) < self.start:
            raise InvalidValueError(
                f"start must be at most stop, got {self.start} and {self.stop}; for example "
                "loop(0.1, start=0.45, stop=0.95)"
            )

    def wanted(self, done_B: Integers, room_B: Integers, still: bool) -> Integers:
        """See `RemaskFraction.wanted`."""
        # at least one, since the pass is spent in any case
        most = np.maximum(_rounded(self.fraction * done_B), 1)
        return most if still else np.zeros_like(done_B)

    def still(self, steps: int) -> range:
        """See `RemaskFraction.still`."""
        return range(max(1, round(self.start * steps)), min(steps - 1, round(self.stop * steps)))


_fractions: Registry[RemaskFraction] = Registry(
    "mdm_schedules.remask_fractions",
    "remask fraction",
    RemaskFraction,  # type: ignore[type-abstract]
    example="rescale(0.3)",
)
for _kind in (Cap, Rescale, Loop):
    _fractions.register(_kind)


def get_remask_fraction(given: Any) -> RemaskFraction:
    """A number (the same as cap(number)), a spec such as "rescale(0.3)", or an object as it is.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: none of these, or out of range.
    """
    if isinstance(given, RemaskFraction):
        return given
    if isinstance(given, str):
        try:
            given = float(given)
        except ValueError:
            return _fractions.read(given)
    try:
        return Cap(check_real("remask_fraction", given, 0, 1))
    except (InvalidTypeError, InvalidValueError) as error:
        raise type(error)(f"{error}; or a schedule of it: 'rescale(0.3)', 'loop(0.1)'") from None


def check_wanted(
    fraction: RemaskFraction, done_B: Integers, room_B: Integers, still: bool
) -> Integers:
    """`RemaskFraction.wanted`, as far as it can be had; what is no count would leave masks."""
    wanted = fraction.wanted(done_B.copy(), room_B.copy(), still)
    array = np.asarray(wanted)
    if array.dtype.kind not in "iu" or array.shape != done_B.shape or (array < 0).any():
        raise InvalidValueError(
            f"wanted of the remask fraction {fraction.name!r} ({type(fraction).__name__}) must "
            f"return integers >= 0 [{len(done_B)}], one for each row, got {shown(wanted)}"
        )
    counts: Integers = np.minimum(np.minimum(array, done_B), room_B)
    return counts


def check_still(fraction: RemaskFraction, steps: int) -> range:
    """The steps in which the plan stands still, neither the first nor the last one."""
    still = fraction.still(steps)
    if isinstance(still, range) and (
        not still or (still.step == 1 and still[0] > 0 and still[-1] < steps - 1)
    ):
        return still
    raise InvalidValueError(
        f"still of the remask fraction {fraction.name!r} ({type(fraction).__name__}) must return a "
        f"range of steps between the first and the last of {steps}, got {shown(still)}"
    )


def try_fraction(fraction: RemaskFraction) -> None:
    """Raise where a fraction of one's own answers with what is no count, before the first pass."""
    check_named(fraction)
    for still in (False, True):
        check_wanted(fraction, np.array([0, 2, 5]), np.array([3, 1, 0]), still)


def check_remask(given: Any) -> Remask:
    """Which filled positions are masked again, as its name."""
    if isinstance(given, str) and given in REMASKS:
        return given  # type: ignore[return-value]
    near = did_you_mean(given, REMASKS) if isinstance(given, str) else ""
    is_share = isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given <= 1
    share = f"; a share is remask_fraction={given}" if is_share else ""
    raise InvalidValueError(
        f"remask must be {' or '.join(REMASKS)}, got {shown(given)}{share}.{near}"
    )


def remask_key(uniform: torch.Tensor, confidence: torch.Tensor | None) -> torch.Tensor:
    """What filled positions are ordered by; those with the smallest keys are masked again.

    Without confidences each set is equally likely. With them positions are drawn one after the
    other with chances in proportion to exp(-confidence), which is ReMDM-conf; the Gumbel trick
    draws them all at once.

    Args:
        uniform: float64 in [0, 1).
        confidence: the probability that each token had when it was written.
    """
    if confidence is None:
        return uniform
    gumbel = -(-uniform.clamp(min=2.0**-60).log()).log()
    return confidence - gumbel
