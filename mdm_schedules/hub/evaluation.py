"""The record of a schedule's score: on which model and task, in how many steps, against linear."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from mdm_schedules._version import __version__
from mdm_schedules.checks import check_int, check_real, shown
from mdm_schedules.errors import FormatError, InvalidTypeError, InvalidValueError
from mdm_schedules.plan import MAX_STEPS

MAX_TEXT = 256
_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
HUB_ID = re.compile(f"{_NAME}/{_NAME}", re.ASCII)  # user/name
MODEL_ID = re.compile(f"{_NAME}(/{_NAME})?", re.ASCII)  # old models have no user


def check_text(name: str, value: Any) -> str:
    """`value` as one line of 1 to 256 printable characters."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"{name} must be text, got {shown(value)}")
    if not 0 < len(value) <= MAX_TEXT or not value.isprintable() or not value.strip():
        raise InvalidValueError(
            f"{name} must be one line of 1 to {MAX_TEXT} printable characters, got {shown(value)}"
        )
    return value


def slug(task: str) -> str:
    """`task` as a folder name and Hub tag: lower case, '-' for all but letters and digits."""
    return re.sub(r"[^a-z0-9._]+", "-", task.lower()).strip("-._")[:64] or "task"


@dataclass(frozen=True)
class Evaluation:
    """What a schedule scored, and all that is needed to score it again.

    Args:
        model: Hub id (or other name) of the model that was run.
        task: for example "gsm8k".
        steps: forward passes asked for, 1 to 2**24.
        metric: for example "exact_match".
        value: the score, with its `standard_error` if known.
        baseline: the score of the linear schedule under the same settings, with its
            `baseline_standard_error`.
        model_revision: commit of the model.
        nfe: forward passes spent per sequence, where that is not `steps`.
        sampler: the keyword arguments of `generate` that were used: remasking, temperature,
            block_length, ...
        date: ISO date, today unless given.
        library_version: of mdm-schedules, the running one unless given.
        extra: fields that a later version of the format added; kept and written back.

    Raises:
        InvalidTypeError, InvalidValueError: a field that is none of these.
    """

    model: str
    task: str
    steps: int
    metric: str
    value: float
    standard_error: float | None = None
    baseline: float | None = None
    baseline_standard_error: float | None = None
    model_revision: str | None = None
    nfe: float | None = None
    sampler: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    date: str | None = field(default_factory=lambda: date.today().isoformat())
    library_version: str | None = __version__
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            name: check_text(name, getattr(self, name)) for name in ("model", "task", "metric")
        }
        checked["steps"] = check_int("steps", self.steps, 1, MAX_STEPS, "steps=16")
        checked["value"] = check_real("value", self.value)
        for name, low in (
            ("standard_error", 0),
            ("baseline", None),
            ("baseline_standard_error", 0),
            ("nfe", 0),
        ):
            if (number := getattr(self, name)) is not None:
                checked[name] = (
                    check_real(name, number) if low is None else check_real(name, number, low)
                )
        for name in ("model_revision", "date", "library_version"):
            if (text := getattr(self, name)) is not None:
                check_text(name, text)
        if not isinstance(self.sampler, Mapping) or not isinstance(self.extra, Mapping):
            raise InvalidTypeError(
                f"sampler must be a mapping such as {{'temperature': 0.0}}, got "
                f"{shown(self.sampler)}"
            )
        for key, setting in self.sampler.items():
            check_text("a name in sampler", key)
            if isinstance(setting, str):
                check_text(f"sampler[{key!r}]", setting)
            elif setting is not None and not isinstance(setting, bool):
                check_real(f"sampler[{key!r}]", setting)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """The record as schedule.json holds it, without the fields that are not known."""
        record = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name != "extra"
        }
        record["sampler"] = dict(self.sampler)
        extra = {key: value for key, value in self.extra.items() if key not in record}
        return {key: value for key, value in record.items() if value not in (None, {})} | extra

    @classmethod
    def from_json(cls, record: Any) -> Evaluation:
        """Read what `to_json` wrote; anything else raises FormatError."""
        if not isinstance(record, Mapping):
            raise FormatError(f"evaluation must be an object, got {shown(record)}")
        names = {item.name for item in dataclasses.fields(cls)} - {"extra"}
        known: dict[str, Any] = {"date": None, "library_version": None}
        known |= {key: value for key, value in record.items() if key in names}
        try:
            return cls(
                **known, extra={key: value for key, value in record.items() if key not in names}
            )
        except (InvalidTypeError, InvalidValueError) as error:
            raise FormatError(f"evaluation: {error}") from None
        except TypeError as error:  # a field is missing
            raise FormatError(f"evaluation: {str(error).partition(' ')[2]}") from None

    @property
    def score(self) -> str:
        """The value with its standard error, as text."""
        return _plus_minus(self.value, self.standard_error)

    @property
    def baseline_score(self) -> str:
        """Linear's value with its standard error, as text; '' if it is not known."""
        return (
            ""
            if self.baseline is None
            else _plus_minus(self.baseline, self.baseline_standard_error)
        )


def _plus_minus(value: float, error: float | None) -> str:
    return f"{value:.6g}" if error is None else f"{value:.6g} ± {error:.2g}"
