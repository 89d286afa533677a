"""What the suites share: the failure, the calls they watch, and a small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import MDMError
from mdm_schedules.registry import Registry

VOCAB, MASK = 12, 11


def require(condition: bool, subject: object, what: str) -> None:
    """Raise AssertionError, naming the plug-in, unless `condition` holds."""
    if not condition:
        raise AssertionError(f"{shown(subject)}: {what}")


@contextmanager
def failing_as(subject: object, what: str) -> Iterator[None]:
    """Turn any error of the plug-in into an AssertionError that says what was asked of it."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(
            f"{shown(subject)}: {what} raised {type(error).__name__}: {error}"
        ) from error


def watched(subject: object, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call that must not write into its tensors nor use torch's own randomness."""
    parts = [value for x in arguments for value in (vars(x).values() if is_dataclass(x) else [x])]
    tensors = [(x, x.clone()) for x in parts if isinstance(x, torch.Tensor)]
    generator = torch.get_rng_state()
    with failing_as(subject, what):
        answer = call(*arguments)
    for tensor, before in tensors:
        require(same(tensor, before), subject, f"{what} writes into its argument")
    require(
        torch.equal(torch.get_rng_state(), generator),
        subject,
        f"{what} draws from torch's global generator; take the noise that is given",
    )
    return answer


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit, where NaN equals NaN."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def check_name(subject: Any, registry: Registry[Any], registered: bool) -> None:
    """The class has a `name` and, where it is registered, is what that name stands for."""
    name = getattr(type(subject), "name", None)
    require(
        isinstance(name, str) and bool(name),
        subject,
        f"needs a class attribute name = '...', got {shown(name)}",
    )
    if registered:
        try:
            found = registry.get(str(name))
        except MDMError as error:
            raise AssertionError(
                f"{shown(subject)}: cannot be reached by its name ({error}); add an entry point to "
                f"the group {registry.group!r}, or give registered=False"
            ) from error
        require(
            found is type(subject), subject, f"the name {name!r} stands for {found!r}, not for it"
        )


def tiny_model(tokens: torch.Tensor) -> torch.Tensor:
    """Logits [B, L, VOCAB], in float64 so that they are the same in any batch."""
    position = torch.arange(tokens.shape[1], device=tokens.device)[:, None]
    code = (tokens + 1.0).double().masked_fill(tokens == MASK, 0).cumsum(1)[:, :, None]
    code = code + 1.7 * position
    return 3 * torch.sin(code * torch.arange(1, VOCAB + 1, device=tokens.device) / 3)
