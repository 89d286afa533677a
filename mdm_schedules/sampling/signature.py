"""The options as `generate` shows them: in its signature and in its docstring."""

from __future__ import annotations

import inspect
import textwrap

from mdm_schedules.sampling.options import OPTIONS


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
