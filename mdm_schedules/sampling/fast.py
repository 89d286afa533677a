"""The fast draw: at temperature 0 or 1 without filters, each row of logits is read once.

Three tricks, of which `exact.py` needs none:

* Softmax with the mask counted. One softmax of the logits as they are serves both the confidence,
  in which the mask token counts, and the draw, in which it must not: the mask's share is set to
  nothing afterwards, and a draw need not sum to 1. Only where the mask has nearly all of it are too
  few digits left for the others; those rows are read again without the mask.
* Two-level inverse CDF (`segments.py`). Of each row only sums (or maxima) by segment are kept. The
  draw finds the segment first, then reads one segment's logits again to find the token in it: no
  [R, V] of running sums is ever made, and sums over segments are float64.
* Reading in place. Long rows that need no change go into the softmax as views of the logits, in
  runs of neighbours, so that they are not copied first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mdm_schedules.sampling.rows import READ_IN_PLACE, RowReader, ranked, runs, wide
from mdm_schedules.sampling.segments import SEGMENT, by_segment, search
from mdm_schedules.sampling.where import Where

#: mass of all tokens but the mask, below which a row is read again without the mask
LEAST_MASS = 1e-12
#: chunks of rows that one softmax takes on a CPU: each operation reads a row once, so many pay
CHUNKS = 16


# ----- The draw -----


Watch = Callable[[Sequence[torch.Tensor], torch.Tensor, Where, torch.Tensor | None], None]


class FastDraw:
    """Draws tokens at temperature 0 (on a CPU) or 1, and scores them by their probability.

    Args:
        reader: the rows and buffers.
        scored: whether scores are wanted.
        watch: is shown logits and probabilities of each row (`CommitRule.watch_parts`), on a CPU
            only.
    """

    def __init__(self, reader: RowReader, scored: bool, watch: Watch | None = None) -> None:
        self.reader, self.scored, self.watch = reader, scored, watch

    def __call__(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        uniform_R: torch.Tensor | None,
        where: Where | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """As `TokenDraw`: tokens, probabilities (None unless wanted), and which rows were usable.

        `where` is for `watch`.
        """
        # row_R is always a tensor; index_R stays None where all rows are wanted, which saves copies
        row_R = index_R
        if row_R is None:
            row_R = torch.arange(len(logits_MV), device=logits_MV.device)
        if uniform_R is None:
            tokens_R, log_R = self._best(logits_MV, index_R, row_R, where)
        else:
            tokens_R, log_R = self._drawn(logits_MV, index_R, row_R, uniform_R, where)
        # unusable rows have NaN, +inf or -inf here
        score_R = ranked(log_R.exp().to(wide(logits_MV.dtype)), log_R) if self.scored else None
        return tokens_R, score_R, log_R.isfinite()

    def _best(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        row_R: torch.Tensor,
        where: Where | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first token with the largest logit, and its log-probability; on a CPU."""
        # the best segment, then the first place in it that has the largest logit
        table_RS = self._best_of_segments(logits_MV, index_R, row_R, where)
        log_R, segment_R = table_RS.max(1)
        values_RC = self._inside(logits_MV, row_R, segment_R)
        largest_RC = values_RC == values_RC.amax(1, keepdim=True)
        tokens_R = self.reader.starts[segment_R] + largest_RC.to(torch.uint8).argmax(1)
        # log-probabilities of several segments may be rounded to the same number where their
        # logits differ: these rows are searched whole
        several = (table_RS == log_R[:, None]).sum(1) > 1
        tied = torch.from_numpy(np.flatnonzero(several.numpy()))
        tied_rows = row_R[tied]
        for start, stop in self.reader.spans(logits_MV, tied, torch.get_num_threads()):
            whole = self.reader.read(logits_MV, tied_rows, start, stop, hide=True)
            tokens_R[tied[start:stop]] = whole.argmax(1)
        return tokens_R, log_R

    def _best_of_segments(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        row_R: torch.Tensor,
        where: Where | None,
    ) -> torch.Tensor:
        """The largest log-probability [R, S] in each segment, the mask token left out."""
        logs = (torch.log_softmax, torch.amax, -torch.inf)
        if self.watch is None:
            return self._segments(logits_MV, index_R, *logs)
        # who watches wants probabilities, of which only the largest need a logarithm then
        table_RS = self._segments(logits_MV, index_R, torch.softmax, torch.amax, 0, where=where)
        few = torch.from_numpy(np.flatnonzero(table_RS.amax(1).numpy() < LEAST_MASS))
        table_RS.log_()
        if len(few):
            table_RS[few] = self._segments(logits_MV, row_R[few], *logs)
        return table_RS

    def _drawn(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        row_R: torch.Tensor,
        uniform_R: torch.Tensor,
        where: Where | None = None,
        hide: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A token drawn from each row, and its log-probability with the mask counted.

        With `hide` the softmax leaves out the mask token, as it must where the mask has nearly all
        probability.
        """
        hide = hide or not logits_MV.is_cpu  # a device is not asked whether it must
        table_RS = self._segments(logits_MV, index_R, torch.softmax, torch.sum, 0, hide, where)
        segment_R, place_R, share_R, total_R = search(
            table_RS,
            uniform_R,
            lambda segment_R: self._inside(logits_MV, row_R, segment_R).softmax(1),
        )
        tokens_R = self.reader.starts[segment_R] + place_R
        # probability = the segment's, times the token's share of it
        log_R = share_R.mul_(table_RS.gather(1, segment_R[:, None])[:, 0]).log_()
        if not hide:
            # too little is left beside the mask: these rows once more, without it
            few = torch.from_numpy(np.flatnonzero(total_R.numpy() < LEAST_MASS))
            if len(few):
                tokens_R[few], log_R[few] = self._drawn(
                    logits_MV, row_R[few], row_R[few], uniform_R[few], hide=True
                )
        elif self.reader.mask_counts:
            # so far the mask was left out: log sum exp of the other logits
            # = logit(token) - log p(token | not the mask), and the mask's logit joins that sum
            mask_R = logits_MV[row_R, self.reader.mask].double()
            above_R = mask_R - logits_MV[row_R, tokens_R].double() + log_R
            log_R = log_R - torch.logaddexp(above_R, torch.zeros_like(above_R))
        return tokens_R, log_R

    # ----- Reading the logits: all of a row once, then one segment of it -----

    def _segments(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        softmax: Callable[..., torch.Tensor],
        reduce: Callable[..., torch.Tensor],
        nothing: float,
        hide: bool = False,
        where: Where | None = None,
    ) -> torch.Tensor:
        """`reduce` by segment [R, S] of the rows' softmax, with `nothing` where the mask is.

        The mask counts in the softmax unless `hide`. With `where` the rows are shown to `watch`.
        """
        reader = self.reader
        rows = len(logits_MV) if index_R is None else len(index_R)
        table_RS = logits_MV.new_empty(rows, len(reader.starts), dtype=wide(logits_MV.dtype))
        # rows are read in place where nothing must be changed in them, and where the host knows
        # which of them are neighbours
        as_they_are = logits_MV.dtype == table_RS.dtype and not (hide or len(reader.columns))
        known = index_R is None or (index_R.is_cpu and logits_MV.shape[1] >= READ_IN_PLACE)
        for start, stop in reader.spans(logits_MV, index_R, CHUNKS):
            probs = reader.buffer("probs", stop - start, logits_MV)
            # 1. where the rows lie, or copies of them
            if as_they_are and known:
                parts = _neighbours(logits_MV, index_R, start, stop)
            else:
                parts = [reader.read(logits_MV, index_R, start, stop, hide)]
            # 2. their softmax, each part into its own rows of the buffer
            for part, out in zip(parts, probs.split([len(part) for part in parts]), strict=True):
                softmax(part, 1, out=out)
            # 3. who watches sees them, and is spared a look for the largest of each segment
            table, largest = table_RS[start:stop], None
            if self.watch is not None and where is not None:
                if reduce is torch.amax:
                    by_segment(probs, reduce, table)
                    largest = table
                self.watch(parts, probs, where.part(start, stop), largest)
            # 4. the mask's share goes, and each segment becomes one number
            probs[:, reader.mask : reader.mask + 1] = nothing
            if largest is None:
                by_segment(probs, reduce, table)
            elif reader.mask < probs.shape[1]:
                segment = reader.mask // SEGMENT
                inside = probs[:, segment * SEGMENT : (segment + 1) * SEGMENT]
                table[:, segment] = inside.amax(1)
        return table_RS

    def _inside(
        self, logits_MV: torch.Tensor, row_R: torch.Tensor, segment_R: torch.Tensor
    ) -> torch.Tensor:
        """The logits [R, C] in a segment of each row, without what is never drawn."""
        reader = self.reader
        windows = logits_MV.unfold(1, reader.barred.shape[1], 1)  # a view of every window
        values_RC = windows[row_R, reader.starts[segment_R]].to(wide(logits_MV.dtype))
        return values_RC.masked_fill_(reader.barred[segment_R], -torch.inf)


def _neighbours(
    logits_MV: torch.Tensor, index_R: torch.Tensor | None, start: int, stop: int
) -> list[torch.Tensor]:
    """Views of the wanted rows start to stop, one for each run of rows that follow one another."""
    if index_R is None:
        return [logits_MV[start:stop]]
    row = index_R[start:stop].numpy()  # on the host
    return [logits_MV[row[i] : row[i] + j - i] for i, j in runs(row)]
