"""OmniVoice (text to speech) with any mask schedule.

    import mdm_schedules as mdm

    with mdm.integrations.omnivoice.schedule("beta(a=0.9, b=0.3)", steps=16):
        audio = model.generate(text="Hello.")

OmniVoice fills its codebooks by a linear schedule whose time is shifted: `shifted(shift=0.1)` here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any

from mdm_schedules.errors import MissingExtraError
from mdm_schedules.lookup import schedule_for_steps
from mdm_schedules.plan import check_steps
from mdm_schedules.schedules import Schedule, Shifted

VERSIONS = "0.2.1"


@dataclass(frozen=True)
class _Choice:
    schedule: Schedule
    steps: int | None
    own_rounding: bool


_CHOICE: ContextVar[_Choice | None] = ContextVar("omnivoice_schedule", default=None)


@contextmanager
def schedule(
    spec: str | Schedule, steps: int | None = None, *, own_rounding: bool = False
) -> Iterator[Schedule]:
    """Within the `with`, OmniVoice's generate fills its masks by this schedule.

    The plan is this library's, for each item by its own number of masks: cumulative rounding, with
    at least one token in each pass. OmniVoice itself rounds each step up, which takes tokens early
    and may leave the last passes with nothing to do. Other threads are not affected.

    Args:
        spec: what `get_schedule` takes.
        steps: passes for each item (two forwards in one batch, for its guidance); None keeps the
            `num_step` of its generation config.
        own_rounding: round as OmniVoice does. With `shifted(shift=s)` its tokens are then those of
            its own `t_shift=s`.

    Yields:
        The schedule.

    Raises:
        MissingExtraError: OmniVoice is missing, or has another interface.
        MDMError: no such schedule, or steps below 1.
    """
    steps = None if steps is None else check_steps(steps)
    chosen = schedule_for_steps(spec, steps)
    _hook(_module())
    token = _CHOICE.set(_Choice(chosen, steps, own_rounding))
    try:
        yield chosen
    finally:
        _CHOICE.reset(token)


def _module() -> ModuleType:
    try:
        from omnivoice.models import omnivoice as module
    except ImportError as error:
        raise MissingExtraError(
            f"OmniVoice cannot be imported ({error}); run: pip install 'mdm-schedules[omnivoice]' "
            f"(known to work: omnivoice {VERSIONS})"
        ) from error
    found: ModuleType = module
    if not (hasattr(found, "_get_time_steps") and hasattr(found, "OmniVoice")):
        raise MissingExtraError(
            "this version of OmniVoice computes its schedule elsewhere; known to work: pip install "
            f"omnivoice=={VERSIONS}"
        )
    return found


def _hook(module: Any) -> None:
    """Let OmniVoice ask for the schedule, once; outside a `with` it does what it did."""
    if hasattr(module._get_time_steps, "__wrapped__"):
        return
    times, generate = module._get_time_steps, module.OmniVoice._generate_iterative

    @wraps(times)
    def chosen_times(*args: Any, **options: Any) -> Any:
        choice = _CHOICE.get()
        if choice is None:
            return times(*args, **options)
        if not choice.own_rounding:
            return _Times(choice.schedule, options["num_step"])
        if isinstance(choice.schedule, Shifted):  # its own float32 arithmetic
            return times(*args, **{**options, "t_shift": choice.schedule.shift})
        return choice.schedule.alpha(times(*args, **{**options, "t_shift": 1.0}))

    @wraps(generate)
    def with_steps(self: Any, task: Any, gen_config: Any) -> Any:
        choice = _CHOICE.get()
        if choice is not None and choice.steps is not None:
            gen_config = dataclasses.replace(gen_config, num_step=choice.steps)
        return generate(self, task, gen_config)

    module._get_time_steps, module.OmniVoice._generate_iterative = chosen_times, with_steps


class _Times:
    """What OmniVoice takes for a grid of times: differences times a total are counts of a plan."""

    def __init__(self, schedule: Schedule, steps: int) -> None:
        self.schedule, self.steps = schedule, steps
        self._plans: dict[int, list[int]] = {}

    def tolist(self) -> list[_Time]:
        return [_Time(self, i) for i in range(self.steps + 1)]

    def count(self, total: int, step: int) -> int:
        if total not in self._plans:
            self._plans[total] = self.schedule.plan(total, self.steps).tolist()
        return self._plans[total][step]


@dataclass(frozen=True)
class _Time:
    grid: _Times
    step: int

    def __sub__(self, before: _Time) -> _Difference:
        return _Difference(before)


@dataclass(frozen=True)
class _Difference:
    since: _Time

    def __rmul__(self, total: int) -> int:
        return self.since.grid.count(total, self.since.step)
