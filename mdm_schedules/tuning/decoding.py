"""What tuning chooses: a schedule and, if asked for, options of `generate` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mdm_schedules.schedules import Schedule

STEPS = "steps"  # an option that replaces the number of steps that was tuned for


@dataclass(frozen=True)
class Decoding:
    """A schedule with options of `generate`: a commit rule, a remask fraction.

    Attributes:
        schedule: the schedule.
        options: (name, value) pairs of plain values, sorted by name. With a commit rule, "steps" is
            the bound on the passes, of which the rule saves some.
    """

    schedule: Schedule
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, schedule: Schedule, options: Mapping[str, Any]) -> Decoding:
        """With the options sorted."""
        return cls(schedule, tuple(sorted(options.items())))

    @property
    def spec(self) -> str:
        """The schedule's spec, and the options as keywords."""
        return ", ".join(
            [self.schedule.spec, *(f"{name}={value!r}" for name, value in self.options)]
        )

    def steps(self, tuned: int | None) -> int | None:
        """The steps to generate with, where `tuned` are asked for."""
        return dict(self.options).get(STEPS, tuned)

    @property
    def given(self) -> dict[str, Any]:
        """The options without the steps."""
        return {name: value for name, value in self.options if name != STEPS}


def as_decoding(given: Schedule | Decoding) -> Decoding:
    """A schedule alone has no options."""
    return given if isinstance(given, Decoding) else Decoding(given)


def plan_text(plan: list[int]) -> str:
    """Tokens per step, repeats counted: "1 x5, 2 x3, 4"."""
    runs: list[list[int]] = []
    for size in plan:
        if runs and runs[-1][0] == size:
            runs[-1][1] += 1
        else:
            runs.append([size, 1])
    return ", ".join(f"{size}" if many == 1 else f"{size} x{many}" for size, many in runs)


LONGEST = 60  # characters of a spec that a sentence holds


def words(decoding: Schedule | Decoding, steps: int | None, num_tokens: int | None) -> str:
    """A decoding as text for people: a long table of knots by the plan that it makes.

    Args:
        decoding: a schedule, with or without options.
        steps: number of steps that was tuned for.
        num_tokens: tokens that the plan reveals. If it is not known, shares are printed.
    """
    one = as_decoding(decoding)
    schedule, count = one.schedule, one.steps(steps)
    text = schedule.spec
    if len(text) > LONGEST:
        if count is not None and num_tokens is not None:
            text = f"plan {plan_text(schedule.plan(num_tokens, count).tolist())}"
        else:
            # Percent of all tokens revealed, at the ends of the steps or of tenths of the time.
            parts = count if count is not None and count <= 20 else 10
            shares = [schedule.alpha(part / parts) for part in range(1, parts + 1)]
            text = f"{schedule.name}, {'/'.join(f'{100 * share:.3g}' for share in shares)} %"
    return ", ".join([text, *(f"{name}={value}" for name, value in one.options)])
