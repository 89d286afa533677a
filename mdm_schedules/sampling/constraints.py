"""Constraints of options, as data: (name, value) -> the value as JSON can hold it, or an error."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mdm_schedules.checks import check_int, check_real, did_you_mean, plain_value, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.hub import is_hub_id
from mdm_schedules.lookup import schedule_for_steps
from mdm_schedules.sampling.commits import get_commit
from mdm_schedules.sampling.policies import get_policy
from mdm_schedules.sampling.remask import Cap, get_remask_fraction
from mdm_schedules.schedules import Schedule


@dataclass(frozen=True)
class Whole:
    """An integer >= low."""

    low: int = 0
    high: int | None = None
    parse = int

    def __call__(self, name: str, value: Any) -> int:
        return check_int(name, value, self.low, self.high, example=f"{name}={max(self.low, 8)}")


@dataclass(frozen=True)
class Real:
    """A finite number in [low, high]."""

    low: float = 0.0
    high: float = math.inf
    low_open: bool = False
    parse = float

    def __call__(self, name: str, value: Any) -> float:
        return check_real(name, value, self.low, self.high, low_open=self.low_open)


@dataclass(frozen=True)
class Truth:
    """True or False."""

    parse = bool

    def __call__(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidTypeError(f"{name} must be True or False, got {shown(value)}")
        return value


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]
    parse = str

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            allowed = ", ".join(map(repr, self.words))
            raise InvalidTypeError(f"{name} must be one of {allowed}, got {shown(value)}")
        if value not in self.words:
            raise InvalidValueError(
                f"{name} must not be {shown(value)}.{did_you_mean(value, self.words)}"
            )
        return value


@dataclass(frozen=True)
class TokenIds:
    """One token id, or several."""

    parse = int

    def __call__(self, name: str, value: Any) -> int | list[int]:
        if isinstance(value, int):
            return check_int(name, value, 0)
        return token_ids(name, value, None)


@dataclass(frozen=True)
class Checked:
    """Text, or an object of ours, that `check` reads."""

    check: Callable[[Any], Any]
    parse = str

    def __call__(self, name: str, value: Any) -> Any:
        return self.check(value)


def schedule_text(value: Any) -> str:
    if isinstance(value, Schedule):
        return value.spec
    if not is_hub_id(value):  # the Hub is asked by `generate`
        schedule_for_steps(value, 16)  # any number: the steps may be set later
    return str(os.fspath(value))


def remasking_text(value: Any) -> Any:
    get_policy(value)
    return value


def commit_text(value: Any) -> Any:
    get_commit(value)
    return value


def remask_fraction_value(value: Any) -> Any:
    """A number as a float, also from text; a schedule of it as it was given."""
    found = get_remask_fraction(value)
    try:
        return found.fraction if isinstance(found, Cap) and float(value) >= 0 else value
    except (TypeError, ValueError):
        return value


def token_ids(
    name: str, given: int | Sequence[int] | torch.Tensor | None, vocab_size: int | None
) -> list[int]:
    """One token id or several as a list; None is an empty one."""
    if given is None:
        return []
    values: Any = plain_value(name, given)
    if not isinstance(values, Sequence) or isinstance(values, str):
        values = [values]
    high = None if vocab_size is None else vocab_size - 1
    return [check_int(name, value, 0, high) for value in values]
