"""The two-level inverse CDF: a draw from long rows that looks into one segment of each.

To draw from weights w by a uniform number u is to find the first token whose running sum is above
u * sum(w). With V of 100,000 and more that sum has two faults: in float32 small weights at the end
are lost in it, and it fills an array as large as the weights. So a row is cut into segments:

    weights    [ .1 .2 .0 .1 | .3 .0 .1 .2 | .0 .4 .1 ]      u * sum(w) = .75
    sums       [     .4      |     .6      |    .5    ]
    running    [     .4      |    1.0      |   1.5    ]      first above .75: the middle one
    inside     [ .3 .3 .4 .6 ]                               first above .75 - .4: its third token

Sums over segments are float64, and running sums are made in one segment per row only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

#: columns of a segment
SEGMENT = 512
#: largest factor below 1: x * BELOW < x for every positive float64
BELOW = 1 - 2.0**-52


# ----- Segments -----


def by_segment(
    values: torch.Tensor, reduce: Callable[..., torch.Tensor], out: torch.Tensor
) -> None:
    """`reduce` over each segment of the vocabulary.

    Args:
        values: [R, V].
        reduce: such as torch.sum; takes a dimension and `out`.
        out: [R, S] for S = ceil(V / SEGMENT), which is written to.
    """
    full = values.shape[1] // SEGMENT
    # whole segments at once, as [R, full, SEGMENT]
    if full:
        reduce(values[:, : full * SEGMENT].unflatten(1, (full, SEGMENT)), 2, out=out[:, :full])
    # the last segment may be shorter
    if full < out.shape[1]:
        reduce(values[:, full * SEGMENT :], 1, out=out[:, full])


def windows_of(vocabulary: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of one width that hold one segment each.

    Returns:
        their first columns [S], and a bool [S, C] that is True on columns of another segment.
    """
    width = min(SEGMENT, vocabulary)
    first_S = torch.arange(0, vocabulary, SEGMENT, device=device)
    # the last window is moved left until it fits, over columns of the segment before
    starts_S = first_S.clamp(max=vocabulary - width)
    return starts_S, torch.arange(width, device=device) < (first_S - starts_S)[:, None]


# ----- The draw -----


def search(
    sums_RS: torch.Tensor, uniform_R: torch.Tensor, inside: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw from each row of weights by one uniform number, from the sums by segment.

    Args:
        sums_RS: weight of each segment.
        uniform_R: float64 in [0, 1).
        inside: gives the weights [R, C] in one segment [R] of each row, up to a factor.

    Returns:
        segments [R]; places in them, never one of weight zero; the shares of the segment's weight
        there; and the sums of the rows; the last two float64.
    """
    # 1. The segment. Targets stay below the totals even after rounding, so that the search ends
    #    where there is weight.
    running_RS = sums_RS.cumsum(1, dtype=torch.float64)
    total = running_RS[:, -1:]
    target = uniform_R[:, None] * (total * BELOW)
    segment = torch.searchsorted(running_RS, target, right=True).clamp_(max=sums_RS.shape[1] - 1)

    # 2. What is left of the target inside it, in the scale of the weights that `inside` gives.
    weights_RC = inside(segment[:, 0])
    within_RC = weights_RC.cumsum(1, dtype=torch.float64)
    end, here = within_RC[:, -1:], sums_RS.gather(1, segment)
    before = running_RS.gather(1, segment).sub_(here)
    target.sub_(before).clamp_(min=0).mul_(end).div_(here)

    # 3. The place in the segment.
    place = torch.searchsorted(within_RC, torch.minimum(target, end * BELOW), right=True)
    place.clamp_(max=weights_RC.shape[1] - 1)
    share = weights_RC.gather(1, place) / end
    return segment[:, 0], place[:, 0], share[:, 0], total[:, 0]


def inverse_cdf(
    probs_RV: torch.Tensor, uniform_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from each row of non-negative weights by one uniform number, through sums on two levels.

    Args:
        probs_RV: weights, not necessarily normalised.
        uniform_R: float64 in [0, 1).

    Returns:
        tokens [R], never one of weight zero, and a bool [R] that is False where the weights are NaN
        or all zero.
    """
    starts_S, others_SC = windows_of(probs_RV.shape[1], probs_RV.device)
    # first level: sums by segment; second level: the weights of one segment
    sums_RS = probs_RV.new_empty(len(probs_RV), len(starts_S))
    by_segment(probs_RV, torch.sum, sums_RS)
    windows = probs_RV.unfold(1, others_SC.shape[1], 1)  # a view of every window
    row_R = torch.arange(len(probs_RV), device=probs_RV.device)

    def inside(segment_R: torch.Tensor) -> torch.Tensor:
        weights_RC = windows[row_R, starts_S[segment_R]]
        return weights_RC.masked_fill_(others_SC[segment_R], 0)

    segment_R, place_R, share_R, total_R = search(sums_RS, uniform_R, inside)
    return starts_S[segment_R] + place_R, (share_R > 0) & total_R.isfinite()
