"""The names of options as they are called elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from mdm_schedules.checks import did_you_mean
from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.sampling.elsewhere import NO_MEANING, PROMPT_NAMES
from mdm_schedules.sampling.options import OPTIONS

# what other samplers call it -> our option, and where
_OTHER_NAMES = {
    alias: (name, where)
    for name, option in OPTIONS.items()
    for alias, where in option.other_names.items()
}


def unknown_option(name: str, what: str, known: Sequence[str] = tuple(OPTIONS)) -> InvalidTypeError:
    """The error for a name that is no option: what it is called here, or the nearest names.

    Args:
        name: the unknown name.
        what: how the message begins, such as "generate has no option".
        known: the names that there are.
    """
    other = {**dict.fromkeys(PROMPT_NAMES, ("input_ids", "another sampler")), **_OTHER_NAMES}
    ours, where = other.get(name, ("", ""))
    if ours and (ours in known or ours == "input_ids"):
        return InvalidTypeError(f"{what} {name!r}; {where}'s {name} is {ours} here")
    if name in NO_MEANING and name not in known:
        where, why = NO_MEANING[name]
        return InvalidTypeError(f"{what} {name!r}, which is {where}'s: {why}")
    return InvalidTypeError(f"{what} {name!r}.{did_you_mean(name, known)}")
