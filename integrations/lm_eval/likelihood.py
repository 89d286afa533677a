"""Likelihood bounds of texts under a masked diffusion model (LLaDA, arXiv 2502.09992, eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mdm_schedules.information.nats import hidden_nats
from mdm_schedules.models import ModelAdapter, ModelDenoiser, evaluating
from mdm_schedules.sampling.prompt import left_pad

# number of the piece, what is hidden of its target [N], weight
Row = tuple[int, npt.NDArray[np.bool_], float]


@dataclass(frozen=True)
class Piece:
    """Token ids to score, and those before them."""

    context: list[int]
    target: list[int]

    def __len__(self) -> int:
        return len(self.context) + len(self.target)


@dataclass(frozen=True)
class Bound:
    """How the bound is computed.

    Attributes:
        mask_token_id, pad_token_id: token ids.
        draws: forward passes per piece, at most.
        seed: of the draws; they depend on nothing else but the piece.
        batch_size: sequences per forward pass.
        padding: whether sequences of different length may share a pass.
        cfg_scale: guidance by the context, as in `generate`.
    """

    mask_token_id: int
    pad_token_id: int
    draws: int
    seed: int
    batch_size: int
    padding: bool
    cfg_scale: float = 0.0


def pieces(context: list[int], target: list[int], size: int | None) -> list[Piece]:
    """`target` in pieces that the model can read, each preceded by as many tokens as fit.

    Each token is in one piece.
    """
    size = size or max(1, len(context) + len(target))
    result = []
    for begin in range(0, len(target), size):
        part = target[begin : begin + size]
        before = context + target[:begin]
        result.append(Piece(before[max(0, len(before) + len(part) - size) :], part))
    return result


def patterns(piece: Piece, draws: int, seed: int) -> Iterator[tuple[npt.NDArray[np.bool_], float]]:
    """Which of the target's N tokens to hide, and the weight of their summed log-probability.

    The bound is the mean over l = 1 .. N, and over all sets of l hidden tokens, of N / l times
    their summed log-probability. If there are no more sets than draws, all of them are taken and
    the bound is exact. Otherwise l goes through 1 .. N in even strides from one random start, which
    keeps the mean and lowers the variance.

    The draws depend on the seed and the context, so that the answers of one question are compared
    under the same noise; without a context they depend on the text.
    """
    n = len(piece.target)
    if n < (draws + 1).bit_length():  # 2^n - 1 <= draws
        for code in range(1, 1 << n):
            hidden = (code >> np.arange(n)) & 1 == 1
            size = int(hidden.sum())
            yield hidden, 1 / (size * math.comb(n, size))
        return
    draw = np.random.default_rng([seed, *(piece.context or piece.target)])
    sizes = np.minimum((draw.random() + np.arange(draws)) * n // draws, n - 1).astype(int) + 1
    for size in sizes:
        hidden = np.zeros(n, dtype=bool)
        hidden[draw.permutation(n)[:size]] = True
        yield hidden, n / (size * draws)


def bounds(adapter: ModelAdapter, work: Sequence[Piece], how: Bound) -> Iterator[tuple[int, float]]:
    """Each piece's number and bound in nats, at most 0, as soon as it is known.

    The longest pieces come first.
    """
    order = sorted(range(len(work)), key=lambda i: len(work[i]), reverse=True)
    totals, left = [0.0] * len(work), [0] * len(work)

    def rows() -> Iterator[Row]:
        for i in order:
            ours = [
                (i, hidden, weight) for hidden, weight in patterns(work[i], how.draws, how.seed)
            ]
            left[i] = len(ours)
            yield from ours

    for batch in _batches(rows(), work, how):
        with evaluating(adapter.model):
            nats = _nats(adapter, batch, work, how)
        for (i, _, weight), cost in zip(batch, nats, strict=True):
            totals[i] -= weight * float(cost)
            left[i] -= 1
            if not left[i]:
                yield i, totals[i]


def _batches(rows: Iterator[Row], work: Sequence[Piece], how: Bound) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        ragged = bool(batch) and len(work[row[0]]) != len(work[batch[0][0]])
        if len(batch) == how.batch_size or (ragged and not how.padding):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _nats(
    adapter: ModelAdapter, batch: list[Row], work: Sequence[Piece], how: Bound
) -> npt.NDArray[np.float64]:
    """Summed cross-entropy of the hidden tokens of each row, [B]; padded on the left."""
    clean, real = left_pad(
        [work[i].context + work[i].target for i, _, _ in batch], how.pad_token_id
    )
    hidden, prompt = np.zeros(clean.shape, dtype=bool), np.zeros(clean.shape, dtype=bool)
    for row, (i, chosen, _) in enumerate(batch):
        hidden[row, clean.shape[1] - len(chosen) :] = chosen
        prompt[row, clean.shape[1] - len(work[i]) : clean.shape[1] - len(chosen)] = True
    padded = None if bool(real.all()) else real.to(adapter.device)
    guided = torch.from_numpy(prompt).to(adapter.device) if how.cfg_scale else None
    denoiser = ModelDenoiser(adapter, padded, guided, how.mask_token_id, how.cfg_scale)
    hide = torch.from_numpy(hidden).to(adapter.device)
    nats = hidden_nats(
        denoiser,
        clean.to(adapter.device),
        hide,
        how.mask_token_id,
        entropy=False,
    ).cross_entropy
    return np.bincount(hidden.nonzero()[0], weights=nats, minlength=len(batch)).astype(np.float64)
