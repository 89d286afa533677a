"""Schedules that the paper tuned, by task and number of steps (arXiv 2509.13866, Tables 2-7).

    mdm_schedules.get_schedule("preset:llada-8b/mbpp", steps=16)  # Beta(1, 0.2)

The source is arXiv 2509.13866, Tables 2-7. Beside this module lies one JSON file per task, with
every schedule of the task's table and not only the best.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from mdm_schedules.checks import check_int, did_you_mean, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from mdm_schedules.plan import MAX_STEPS
from mdm_schedules.schedules.base import Schedule, schedules

PREFIX = "preset:"
SURE = 2.0  # standard errors by which a schedule must be ahead of linear


@dataclass(frozen=True)
class Row:
    """What one schedule scored, in percent: `mean` and one `standard_error` per step count."""

    schedule: str
    mean: tuple[float, ...]
    standard_error: tuple[float, ...]


@dataclass(frozen=True)
class Preset:
    """One table: a model on a task, what it was measured with, and the scores of its schedules.

    Attributes:
        name: model/task, as `get_preset` takes it.
        model, task: what was measured.
        gen_length: tokens generated, all masked at the start.
        order: the remasking policy.
        inferred: fields that the source does not state. The tables name no order; theirs is taken
            to be that of the sampler which LLaDA was published with.
        temperature: of the draw; None where it is not known.
        block_length: tokens of a block; None where it is not known.
        source: where the figures were published.
        steps: forward passes, increasing.
        rows: the schedules, from linear, the simplest, to others.
    """

    name: str
    model: str
    task: str
    gen_length: int
    order: str
    inferred: tuple[str, ...]
    temperature: float | None
    block_length: int | None
    source: str
    steps: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def settings(self) -> str:
        """What the figures were measured with, in words."""

        def told(field: str) -> str:
            value = getattr(self, field)
            text = "not recorded" if value is None else f"{value}"
            return text + " (inferred)" * (field in self.inferred)

        return (
            f"{self.model}, {self.gen_length} tokens, order {told('order')}, temperature "
            f"{told('temperature')}, block length {told('block_length')}"
        )

    def best(self, steps: int) -> Row:
        """The row to use with so many steps: the best mean, if it is surely ahead of linear.

        Linear stays unless the best mean is more than two standard errors of the difference ahead
        of it. (The standard errors are added as if the runs were independent; instances in common
        make the true one smaller.) Neighbours are often within their standard errors of each other
        as well: see `rows`. The figures are those of the step count nearest to `steps` by ratio; of
        two, the smaller.

        Args:
            steps: forward passes, >= 1.
        """
        wanted = check_int(
            "steps",
            steps,
            1,
            MAX_STEPS,
            f"'{PREFIX}{self.name}(steps={self.steps[0]})'",
        )
        at = min(range(len(self.steps)), key=lambda i: abs(math.log(self.steps[i] / wanted)))
        linear, best = self.rows[0], max(self.rows, key=lambda row: row.mean[at])
        error = math.hypot(best.standard_error[at], linear.standard_error[at])
        return best if best.mean[at] - linear.mean[at] > SURE * error else linear


def list_presets() -> list[Preset]:
    """Return all presets, by name."""
    return list(_presets().values())


def get_preset(name: str) -> Preset:
    """Return the preset called `name`, for example "llada-8b/mbpp", with or without "preset:".

    Raises InvalidTypeError if `name` is not text, and UnknownNameError, which lists the nearest
    names, if there is no such preset.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(
            f"the name of a preset must be text such as 'llada-8b/mbpp', got {shown(name)}"
        )
    key = name.strip().lower().removeprefix(PREFIX).replace("_", "-")
    if key not in _presets():
        raise UnknownNameError(f"no preset is named {shown(name)}.{did_you_mean(key, _presets())}")
    return _presets()[key]


def preset_schedule(spec: str, steps: int | None = None) -> Schedule:
    """The schedule to use on a task: `Preset.best` at the nearest tabulated number of steps.

    Args:
        spec: "preset:llada-8b/mbpp", or with the steps inside it: "preset:llada-8b/mbpp(steps=16)".
        steps: the forward passes you will spend, >= 1; required, because the best schedule depends
            on it.

    Raises:
        UnknownNameError: no such preset; the message lists the nearest names.
        InvalidTypeError, InvalidValueError: `steps` missing, given twice, not an integer, or below
            1.
    """
    written = re.fullmatch(r"(.*?)\(\s*(?:steps\s*=\s*)?(\d{1,9})\s*\)\s*", spec)
    if written and steps is not None:
        raise InvalidValueError(f"steps is given twice, in {shown(spec)} and as an argument")
    found = get_preset(written[1] if written else spec)
    chosen = int(written[2]) if written else steps
    if chosen is None:
        raise InvalidValueError(
            f"preset {found.name!r} needs the number of steps: give steps={found.steps[1]}, or "
            f"write '{PREFIX}{found.name}(steps={found.steps[1]})'; the paper's figures are for "
            f"{', '.join(map(str, found.steps))}"
        )
    return schedules.read(found.best(chosen).schedule)


@lru_cache(maxsize=1)
def _presets() -> dict[str, Preset]:
    found = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json"):
            fields = json.loads(file.read_text(encoding="utf-8"))
            rows = [
                Row(row["schedule"], tuple(row["mean"]), tuple(row["standard_error"]))
                for row in fields.pop("rows")
            ]
            lists = {name: tuple(fields[name]) for name in ("inferred", "steps")}
            parsed = Preset(**{**fields, **lists, "rows": tuple(rows)})
            found[parsed.name] = parsed
    return found
