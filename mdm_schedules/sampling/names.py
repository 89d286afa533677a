"""The names of options as callers give them: by position, or as they are called elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from mdm_schedules.checks import did_you_mean
from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.sampling.elsewhere import NO_MEANING, PROMPT_NAMES
from mdm_schedules.sampling.options import OPTIONS, GenerateOptions

BY_POSITION = 8  # options that may be given without their names
# what other samplers call it -> our option, and where
_OTHER_NAMES = {
    alias: (name, where)
    for name, option in OPTIONS.items()
    for alias, where in option.other_names.items()
}


def by_name(in_order: Sequence[Any], named: GenerateOptions) -> GenerateOptions:
    """Options that were given by position together with those given by name.

    Raises:
        InvalidTypeError: too many, or one that is given twice.
    """
    if len(in_order) > BY_POSITION:
        names = ", ".join(list(OPTIONS)[:BY_POSITION])
        raise InvalidTypeError(
            f"generate takes at most {BY_POSITION} options by position ({names}), got "
            f"{len(in_order)}; give the others by name"
        )
    given = dict(zip(OPTIONS, in_order, strict=False))
    if twice := sorted(given.keys() & named.keys()):
        raise InvalidTypeError(f"{twice[0]} is given twice, by position and by name")
    return cast(GenerateOptions, {**given, **named})


def unknown_option(name: str, what: str, known: Sequence[str] = tuple(OPTIONS)) -> InvalidTypeError:
    """The error for a name that is no option: what it is called here, or the nearest names.

    Args:
        name: the unknown name.
        what: how the message begins, such as "generate has no option".
        known: the names that there are.
    """
    other = {**dict.fromkeys(PROMPT_NAMES, ("input_ids", "other samplers")), **_OTHER_NAMES}
    ours, where = other.get(name, ("", ""))
    if ours and (ours in known or ours == "input_ids"):
        if where == "earlier versions":
            return InvalidTypeError(f"{what} {name!r}: it was renamed to {ours}")
        return InvalidTypeError(f"{what} {name!r}; {where}'s {name} is {ours} here")
    if name in NO_MEANING and name not in known:
        where, why = NO_MEANING[name]
        return InvalidTypeError(f"{what} {name!r}, which is {where}'s: {why}")
    return InvalidTypeError(f"{what} {name!r}.{did_you_mean(name, known)}")
