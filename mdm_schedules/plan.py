"""From a schedule to integers: how many tokens each forward pass reveals."""

from __future__ import annotations

from typing import Any

import torch

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidTypeError, InvalidValueError

MAX_STEPS = 1 << 24
MAX_TOKENS = 1 << 52  # beyond it a float64 cannot resolve N * alpha from its neighbours
ROUNDING_GUARD = 1e-9  # so that N * alpha that should be an exact half is not lost to float error


_EXAMPLE = "schedule.plan(num_tokens=256, steps=16)"


def check_steps(steps: Any) -> int:
    """`steps` as an int in [1, MAX_STEPS]."""
    return check_int("steps", steps, 1, MAX_STEPS, example=_EXAMPLE)


def make_plan(
    fractions: torch.Tensor, num_tokens: int | torch.Tensor, allow_empty: bool = False
) -> torch.Tensor:
    """`Schedule.plan` from the shares themselves; the cost is integer work per distinct count.

    Args:
        fractions: float64 [K] on the host, the share revealed after each step, rising to 1.
        num_tokens: an int >= 0, or an integer tensor [B].
        allow_empty: let a step reveal nothing while tokens remain.

    Returns:
        LongTensor [K], or [B, K] for a tensor, on the device of `num_tokens`.
    """
    if not isinstance(num_tokens, torch.Tensor):
        count = check_int("num_tokens", num_tokens, 0, MAX_TOKENS, example=_EXAMPLE)
        return make_plan(fractions, torch.tensor([count], device="cpu"), allow_empty)[0]
    if (
        num_tokens.ndim != 1
        or num_tokens.is_floating_point()
        or num_tokens.is_complex()
        or num_tokens.dtype == torch.bool
    ):
        raise InvalidTypeError(
            "num_tokens must be an int or an integer tensor [B], "
            f"got {num_tokens.dtype} of shape {tuple(num_tokens.shape)}"
        )
    # Rows with the same number of masks share a plan, which is computed once.
    counts, which = torch.unique(num_tokens.detach().cpu().long(), return_inverse=True)
    if len(counts) and int(counts[0]) < 0:
        raise InvalidValueError(f"num_tokens must be >= 0, got {int(counts[0])}")
    if len(counts) and int(counts[-1]) > MAX_TOKENS:
        raise InvalidValueError(f"num_tokens must be at most {MAX_TOKENS}, got {int(counts[-1])}")
    return share_out(fractions, counts, allow_empty)[which].to(num_tokens.device)


def share_out(
    fractions: torch.Tensor, counts: torch.Tensor, allow_empty: bool = False
) -> torch.Tensor:
    """Split each of `counts` [U] by cumulative rounding of `fractions` [K]: LongTensor [U, K].

    `fractions` increases to 1.
    """
    fractions = torch.cat([fractions.new_zeros(1), fractions])
    # [U, K+1], tokens revealed before each step; halves round up.
    revealed = torch.floor(counts[:, None] * fractions + (0.5 + ROUNDING_GUARD)).long()
    # a flat alpha may waver by an ulp
    revealed = torch.minimum(revealed, counts[:, None]).cummax(dim=1).values
    if not allow_empty:
        revealed = _at_least_one_a_step(revealed, counts)
    return revealed.diff(dim=1)


def _at_least_one_a_step(revealed: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Raise and lower cumulative counts [U, K+1]: every step adds one while tokens remain."""
    passes = torch.arange(revealed.shape[1], device=revealed.device)
    # The smallest curve above `revealed` that rises by at least one at every step.
    raised = (revealed - passes).cummax(dim=1).values + passes
    tokens = counts[:, None]
    # leave a token for each later pass; a row with fewer tokens than passes reveals one a pass
    # until it is done
    last_pass = torch.clamp(tokens, max=revealed.shape[1] - 1)
    room = torch.where(passes < last_pass, tokens - last_pass + passes, tokens)
    return torch.minimum(raised, room)


def check_plan(plan: Any, num_tokens: torch.Tensor) -> torch.Tensor:
    """A plan given by a user as LongTensor [B, K] for the mask counts `num_tokens` [B].

    Args:
        plan: integers >= 0, a sequence or tensor [K] (the same for every row) or [B, K]; each row
            sums to its count.

    Raises:
        InvalidTypeError, InvalidValueError: not integers, negative, of another shape, or of another
            sum.
    """
    try:
        table = torch.as_tensor(plan).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(
            f"a plan must be integers [steps] or [B, steps], got {type(plan).__name__}"
        ) from None
    if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        raise InvalidTypeError(f"a plan must hold integers, got {table.dtype}")
    # One row is a plan for all; `expand` copies nothing.
    if table.ndim == 1:
        table = table.expand(len(num_tokens), -1)
    if table.ndim != 2 or table.shape[0] != len(num_tokens) or table.shape[1] == 0:
        raise InvalidValueError(
            f"a plan must be [steps] or [{len(num_tokens)}, steps], got shape {tuple(table.shape)}"
        )
    table = table.long()
    if bool((table < 0).any()):
        raise InvalidValueError(
            f"a plan must not reveal a negative number of tokens, got {int(table.min())}"
        )
    # a sum that wraps around at 2**64 needs a part that is larger than the count
    wrong = (table.sum(1) != num_tokens.cpu()) | (table > num_tokens.cpu()[:, None]).any(1)
    if bool(wrong.any()):
        row = int(torch.nonzero(wrong)[0])
        raise InvalidValueError(
            f"a plan must sum to the number of masked tokens: row {row} sums to "
            f"{sum(table[row].tolist())}, "
            f"but {int(num_tokens[row])} tokens are masked"
        )
    return table
