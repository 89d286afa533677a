"""Policies and commit rules, tried on a few made-up positions before a run's first pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError
from mdm_schedules.sampling.commits import CommitRule
from mdm_schedules.sampling.noise import SequenceNoise
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy, PositionPolicy
from mdm_schedules.sampling.where import Where


def try_out(
    policy: ConfidencePolicy | OrderPolicy,
    commit: CommitRule | None,
    mask_token_id: int,
    device: torch.device,
) -> None:
    """Raise where a policy or rule answers with a wrong shape, a wrong dtype or NaN.

    What it raises itself is passed on if it is an error of ours (a file that cannot be read). Other
    errors may be due to the made-up positions, and then come up in the first pass or not at all.
    """
    tokens = torch.full((2, 4), mask_token_id, dtype=torch.long, device=device)
    where = Where.whole(tokens, torch.ones_like(tokens, dtype=torch.bool))
    if isinstance(policy, OrderPolicy):
        noise = SequenceNoise(torch.tensor([1, 2], device=device))
        scores = _answer(lambda: policy.score_at(where, noise))
        _check(scores, policy, (2, 4))
    else:
        size = max(mask_token_id + 1, 2)
        probs = torch.full((8, size), 1 / size, device=device)
        drawn = torch.zeros(8, dtype=torch.long, device=device)
        scores = _answer(lambda: policy.score_at(probs, drawn, where.flat()))
        _check(scores, policy, (8,))
    if commit is not None:
        sure = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.3, 0.8, -torch.inf, -torch.inf]])
        chosen = _answer(lambda: commit.select(sure.to(device), where))
        _check(chosen, commit, (2, 4), torch.bool)


def _answer(call: Callable[[], Any]) -> Any:
    """What a plug-in answers; NotImplemented where the made-up positions do not suit it."""
    try:
        return call()
    except MDMError:
        raise
    except NotImplementedError as error:
        raise InvalidTypeError(str(error)) from None
    except Exception:
        return NotImplemented


def _check(
    answer: Any,
    plugin: PositionPolicy | CommitRule,
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
) -> None:
    if answer is NotImplemented:
        return
    check_scores(answer, plugin, shape, dtype)
    if dtype is None and bool(answer.isnan().any()):
        raise InvalidValueError(f"{_named(plugin)} gave scores that are NaN")


def _named(plugin: PositionPolicy | CommitRule) -> str:
    kind = "commit rule" if isinstance(plugin, CommitRule) else "policy"
    return f"the {kind} {plugin.name!r} ({type(plugin).__name__})"


def check_scores(
    answer: Any,
    plugin: PositionPolicy | CommitRule,
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
) -> None:
    """Raise unless `answer` is a tensor of this shape and dtype (None: of floats)."""
    if not isinstance(answer, torch.Tensor):
        raise InvalidTypeError(f"{_named(plugin)} must return a tensor, got {type(answer)}")
    fits = answer.is_floating_point() if dtype is None else answer.dtype == dtype
    if tuple(answer.shape) != tuple(shape) or not fits:
        kind = "floats" if dtype is None else str(dtype).removeprefix("torch.")
        raise InvalidValueError(
            f"{_named(plugin)} must return {kind} {list(shape)}, one for each position, got "
            f"{str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}"
        )
