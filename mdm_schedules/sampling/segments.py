"""Long rows in segments: sums that lose no mass in float32, and a draw that looks into one segment
of each row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

SEGMENT = 512  # columns
BELOW = 1 - 2.0**-52  # times a float64, is below it


def by_segment(
    values: torch.Tensor, reduce: Callable[..., torch.Tensor], out: torch.Tensor
) -> None:
    """`reduce` over each segment of the vocabulary, the last one shorter, into out [R, ceil(V /
    SEGMENT)].
    """
    whole = values.shape[1] // SEGMENT
    if whole:
        reduce(values[:, : whole * SEGMENT].unflatten(1, (whole, SEGMENT)), 2, out=out[:, :whole])
    if whole < out.shape[1]:
        reduce(values[:, whole * SEGMENT :], 1, out=out[:, whole])


def windows_of(vocabulary: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of one width that hold one segment each.

    Returns:
        their first columns [segments], and a bool [segments, width] that is True on columns of
        another segment.
    """
    width = min(SEGMENT, vocabulary)
    first = torch.arange(0, vocabulary, SEGMENT, device=device)
    starts = first.clamp(max=vocabulary - width)
    return starts, torch.arange(width, device=device) < (first - starts)[:, None]


def search(
    sums: torch.Tensor, uniform: torch.Tensor, inside: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw from each row of weights by one uniform number, from the sums by segment [R, segments].

    `inside` gives the weights [R, width] in one segment [R] of each row, up to a factor. Sums
    across segments are
    float64: no mass is lost in a large vocabulary.

    Returns:
        segments [R]; places in them, never one of weight zero; the shares of the segment's weight
        there; and the sums of the rows; the last two float64.
    """
    running = sums.cumsum(1, dtype=torch.float64)
    total = running[:, -1:]
    # targets stay below the totals even after rounding, so that the search ends where there is
    # weight
    target = uniform[:, None] * (total * BELOW)
    segment = torch.searchsorted(running, target, right=True).clamp_(max=sums.shape[1] - 1)
    weights = inside(segment[:, 0])
    within = weights.cumsum(1, dtype=torch.float64)
    end, here = within[:, -1:], sums.gather(1, segment)
    target.sub_(running.gather(1, segment).sub_(here)).clamp_(min=0).mul_(end).div_(here)
    place = torch.searchsorted(within, torch.minimum(target, end * BELOW), right=True)
    place.clamp_(max=weights.shape[1] - 1)
    return segment[:, 0], place[:, 0], (weights.gather(1, place) / end)[:, 0], total[:, 0]


def inverse_cdf(probs: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from each row of non-negative weights by one uniform number, through sums on two levels.

    Args:
        probs: [R, V] weights, not necessarily normalised.
        uniform: float64 [R] in [0, 1).

    Returns:
        tokens [R], never one of weight zero, and a bool [R] that is False where the weights are NaN
        or all zero.
    """
    starts, others = windows_of(probs.shape[1], probs.device)
    sums = probs.new_empty(len(probs), len(starts))
    by_segment(probs, torch.sum, sums)
    windows, row = (
        probs.unfold(1, others.shape[1], 1),
        torch.arange(len(probs), device=probs.device),
    )

    def inside(segment: torch.Tensor) -> torch.Tensor:
        return windows[row, starts[segment]].masked_fill_(others[segment], 0)

    segment, place, share, total = search(sums, uniform, inside)
    return starts[segment] + place, (share > 0) & total.isfinite()
