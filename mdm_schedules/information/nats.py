"""Entropy and cross-entropy of hidden tokens, read off the same logits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.models import Denoiser

Array = npt.NDArray[np.float64]

# Logits per softmax call, so that a large vocabulary needs little memory beside the model's.
_CELLS = 1 << 24


class Nats(NamedTuple):
    """Hidden tokens in nats, float64 [T] each.

    Attributes:
        cross_entropy: minus the log-probability of the true token; infinite at probability 0.
        entropy: of the prediction.
        variance: of minus the log-probability of a token drawn from the prediction, in nats^2: how
            far the cross-entropy of a calibrated model strays from its entropy.
    """

    cross_entropy: Array
    entropy: Array
    variance: Array


def hidden_nats(
    denoiser: Denoiser,
    clean: torch.Tensor,
    hidden: torch.Tensor,
    mask_token_id: int,
    entropy: bool = True,
) -> Nats:
    """Nats of each hidden token, in the order of `hidden.nonzero()`.

    Args:
        denoiser: (tokens, rows) -> logits.
        clean: LongTensor [B, L], the true tokens.
        hidden: bool [B, L].
        mask_token_id: shown instead of hidden tokens; its probability is shared among the others.
        entropy: False leaves out entropy and variance (they are empty), which saves time.
    """
    cells = hidden.flatten().nonzero()[:, 0]
    answer = denoiser(clean.masked_fill(hidden, mask_token_id), cells)
    logits, index = (
        answer
        if isinstance(answer, tuple)
        else (answer, torch.arange(len(cells), device=cells.device))
    )
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point() or logits.ndim != 2:
        given = (
            f"{logits.dtype} {list(logits.shape)}"
            if isinstance(logits, torch.Tensor)
            else shown(logits)
        )
        raise InvalidTypeError(
            f"the model must return floating-point logits with a vocabulary, got {given}"
        )
    if len(index) != len(cells) or (not isinstance(answer, tuple) and len(logits) != len(cells)):
        raise InvalidValueError(
            f"the denoiser was asked for {len(cells)} rows of logits and returned {len(logits)}"
        )
    targets, vocabulary = clean[hidden].to(logits.device), logits.shape[1]
    if int(targets.max()) >= vocabulary:
        raise InvalidValueError(
            f"sequences hold token {int(targets.max())}, but the model has {vocabulary} logits"
        )
    # Chunks bound the memory of the float copies.
    parts = []
    size = max(1, _CELLS // vocabulary)
    for i in range(0, len(cells), size):
        rows = logits[index[i : i + size]]  # a copy, so the model's tensor is not changed
        parts.append(_read(rows, targets[i : i + size], mask_token_id, entropy))
    return Nats(*(torch.cat(one).cpu().numpy() for one in zip(*parts, strict=True)))


def _read(
    rows: torch.Tensor, targets: torch.Tensor, mask_token_id: int, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = rows if rows.dtype == torch.float64 else rows.float()
    # The mask is no text: its probability is shared among the real tokens.
    if mask_token_id < rows.shape[1]:
        rows[:, mask_token_id] = -torch.inf
    if not bool(torch.isfinite(rows.max(1).values).all()):
        raise InvalidValueError(
            "the model gave logits with NaN, +inf, or nothing but -inf; nothing can be read"
        )
    logs = rows.log_softmax(1)
    cross = -logs.gather(1, targets[:, None])[:, 0].double()
    if not entropy:
        return cross, cross[:0], cross[:0]
    terms = torch.special.entr(logs.exp())  # -p log p, 0 where p = 0
    mean = terms.sum(1).double()
    # 0 times infinity is 0 here: tokens of probability 0 are never drawn.
    square = -(terms * logs.nan_to_num(neginf=0.0)).sum(1).double()
    return cross, mean, (square - mean.square()).clamp(min=0)
