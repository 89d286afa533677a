"""Before a search: which steps, which instances choose, check and report, and what fits what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.plan import MAX_STEPS
from mdm_schedules.tuning.scorebook import CheckedObjective
from mdm_schedules.tuning.selection import LEAST
from mdm_schedules.tuning.spaces import Space

REPORTS = 0.25  # of the instances that do not check
DEFAULT_METHODS = {"plan": "cmaes"}
METHODS_OF = {
    "schedule": ("tpe", "gp", "cmaes", "random", "grid", "profile"),
    "schedule+remask": ("tpe", "gp", "random"),
    "schedule+commit": ("tpe", "random"),
    "plan": ("cmaes", "reinforce", "tpe", "gp", "random"),
}
# options of an objective that a space has no room for -> what it tunes instead
CLASHES = {
    "schedule+remask": dict.fromkeys(("commit", "threshold", "entropy_bound"), "remask_fraction"),
    "schedule+commit": {"remask_fraction": "commit rules"},
}


def check_steps(checked: CheckedObjective, steps: Any) -> list[int | None]:
    if steps is None:
        own = checked.steps if checked.takes_steps else None
        return [None if own is None else check_int("steps of the objective", own, 1, MAX_STEPS)]
    if not checked.takes_steps:
        raise InvalidTypeError(
            "the objective takes no `steps`; write it as score(schedule, steps), or leave out "
            "steps="
        )
    given = list(steps) if isinstance(steps, Sequence) and not isinstance(steps, str) else [steps]
    # Sorted and distinct, so that the order of the argument does not make another study.
    counts = sorted({check_int("steps", count, 1, MAX_STEPS, "steps=[8, 16]") for count in given})
    if not counts:
        raise InvalidValueError("steps must hold at least one number, such as steps=[8, 16]")
    return [*counts]


def split(checked: CheckedObjective, share: float, seed: int) -> dict[str, Sequence[int] | None]:
    """The instances that choose, check and report, each in a seeded order.

    Instances that share a prompt go together: held-out ones must be of prompts that chose nothing.
    """
    if checked.num_instances is None:
        return {"select": None}
    order = np.random.default_rng(seed).permutation(checked.num_instances).tolist()
    named = checked.clusters
    if named is None or len(set(named)) == 1:
        named = list(range(len(order)))
    kept, left = _take(order, named, round(share * len(order)))
    if len(kept) < 2 or len(left) < 2:  # a paired test needs two instances
        return {"select": order}
    # The last ones report, so that a study from before, which chose on all, still goes on.
    report, choosing = _take(left[::-1], named, round(REPORTS * len(left)))
    if len({named[index] for index in report}) < LEAST or len(choosing) < 2:
        return {"select": left, "held_out": kept}
    return {"select": choosing[::-1], "held_out": kept, "report": report[::-1]}


def _take(
    order: Sequence[int], named: Sequence[Hashable], number: int
) -> tuple[list[int], list[int]]:
    """The instances of the first clusters, until there are `number` of them, and the others."""
    sizes, many = Counter(named[index] for index in order), 0
    taken: set[Hashable] = set()
    for index in order:
        if many >= number:
            break
        if named[index] not in taken:
            taken.add(named[index])
            many += sizes[named[index]]
    inside = [index for index in order if named[index] in taken]
    return inside, [index for index in order if named[index] not in taken]


def check_passes(space: str, max_passes: Any, counts: list[int | None]) -> list[int | None]:
    """The steps of the baseline: as many as the winner may spend in the mean."""
    limit = check_real("max_passes", max_passes, 1, MAX_STEPS)
    if space == "schedule+commit":
        return [int(limit)]
    over = [count for count in counts if count is not None and count > limit]
    if over:
        raise InvalidValueError(
            f"space={space!r} spends every step, so steps={over[-1]} is above "
            f"max_passes={limit:g}; give steps={int(limit)}, or space='schedule+commit'"
        )
    return counts


def check_fit(checked: CheckedObjective, space: Space, method: str, several: bool) -> Space:
    """The space, if method and objective can search it."""
    if space.name in ("schedule+remask", "schedule+commit") and not checked.takes_options:
        raise InvalidTypeError(
            f"space={space.name!r} needs an objective that takes `options` of generate; write it "
            "as score(schedule, steps, options), or use GenerationObjective"
        )
    # generate takes a commit rule or a remask fraction, not both
    for name, clashing in CLASHES.get(space.name, {}).items():
        if checked.sampler.get(name):
            raise InvalidValueError(
                f"space={space.name!r} tunes {clashing}, which does not go with the objective's "
                f"{name}={checked.sampler[name]!r}; leave {name} out, or take another space"
            )
    allowed = METHODS_OF[space.name]
    if method not in allowed:
        raise InvalidValueError(
            f"space={space.name!r} is searched by {', '.join(allowed)}, got method={method!r}"
        )
    if several and space.saves:
        raise InvalidValueError(
            "space='schedule+commit' has two objectives already; leave out multi_objective"
        )
    return space
