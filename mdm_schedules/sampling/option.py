"""What the table of options says of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdm_schedules.sampling.constraints import Checked, Real, TokenIds, Truth, Whole


@dataclass(frozen=True)
class Option:
    """One option of `generate`.

    Attributes:
        help: what it does, for the docstring and the command line.
        default: what holds where nobody gives it.
        check: its constraint; None for what only `generate` can check.
        stored: whether a generation config can hold it.
        other_names: what it is called elsewhere -> where.
    """

    help: str
    default: Any = None
    check: Whole | Real | Truth | TokenIds | Checked | None = None
    stored: bool = True
    other_names: Mapping[str, str] = field(default_factory=dict)


def names(text: str) -> dict[str, str]:
    """'gen_length LLaDA, max_tokens vLLM' as a dict."""
    return dict(one.split(" ", 1) for one in text.split(", "))
