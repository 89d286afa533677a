"""The options as `generate` takes and shows them: by position, in its signature and docstring."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from typing import Any, cast

from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.sampling.options import OPTIONS, GenerateOptions

BY_POSITION = 8  # options that may be given without their names


def describe_options(indent: str = " " * 8) -> str:
    """The options as lines of an Args section, for docstrings."""
    lines = []
    for name, option in OPTIONS.items():
        default = "" if option.default is None else f" Default: {option.default!r}."
        text = f"{name}: {option.help}{default}"
        lines += textwrap.wrap(
            text,
            100,
            initial_indent=indent,
            subsequent_indent=f"{indent}    ",
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def option_parameters() -> list[inspect.Parameter]:
    """The options as keyword parameters, for `inspect.signature`."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if option.stored else option.default,
        )
        for name, option in OPTIONS.items()
    ]


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
