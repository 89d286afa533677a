"""Rows of logits, read a few at a time into buffers that the passes of a run share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.sampling.segments import windows_of

#: bytes of float32 that are worked on at once (on a CPU by each thread), so that memory does not
#: grow with the batch
CHUNK_BYTES = {"cpu": 1 << 19}
DEFAULT_CHUNK_BYTES = 16 << 20
#: columns; shorter rows are copied in less time than it takes to find which are neighbours
READ_IN_PLACE = 16_384


# ----- Sizes and dtypes -----


def chunk_rows(logits: torch.Tensor) -> int:
    """Rows of the vocabulary [..., V] that are worked on at once."""
    size = CHUNK_BYTES.get(logits.device.type, DEFAULT_CHUNK_BYTES)
    return max(1, size // (4 * logits.shape[-1]))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that logits are worked on in: float32, but float64 stays."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def ranked(probability_R: torch.Tensor, log_R: torch.Tensor) -> torch.Tensor:
    """The probability; where it underflows its logarithm, which is lower and still ordered."""
    tiny = torch.finfo(probability_R.dtype).tiny
    return torch.where(probability_R < tiny, log_R.to(probability_R.dtype), probability_R)


def runs(index: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Places i to j of `index` that hold numbers which follow one another."""
    # a run ends where the next number is not the next one
    return list(pairwise([0, *(np.flatnonzero(np.diff(index) != 1) + 1), len(index)]))


# ----- Reading -----


class RowReader:
    """Copies wanted rows of logits where they may be changed; the logits are only read.

    Args:
        mask_token_id: the token that is never drawn.
        suppress_tokens: tokens that are never drawn and do not count in any probability.

    Attributes:
        columns: LongTensor, the suppressed tokens that the vocabulary has.
        mask_counts: whether the mask has a share of the softmax.
        starts: LongTensor [S], the first column of each segment's window.
        barred: bool [S, C], True where a window has a column that is not of its segment, or is
            never drawn.
    """

    def __init__(self, mask_token_id: int, suppress_tokens: Sequence[int]) -> None:
        self.mask = mask_token_id
        self.suppress_tokens = suppress_tokens
        self._buffers: dict[str, torch.Tensor] = {}
        self._vocabulary: int | None = None

    def prepare(self, logits_MV: torch.Tensor) -> None:
        """Make what follows from the size of the vocabulary; later calls check that it stays."""
        vocabulary, device = logits_MV.shape[1], logits_MV.device
        if self._vocabulary is not None:
            if vocabulary != self._vocabulary:
                raise InvalidValueError(
                    f"the model gave logits of {vocabulary} tokens, after {self._vocabulary} in "
                    "the first pass"
                )
            return
        self._vocabulary = vocabulary
        # an id beyond the vocabulary cannot be drawn anyhow
        columns = sorted({column for column in self.suppress_tokens if column < vocabulary})
        self.columns = torch.tensor(columns, dtype=torch.long, device=device)
        self.mask_counts = self.mask < vocabulary and self.mask not in columns
        self.starts, self.barred = windows_of(vocabulary, device)
        never = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        never[self.columns] = True
        never[self.mask : self.mask + 1] = True  # empty where the vocabulary lacks the mask
        # the windows' view of it
        self.barred |= never.unfold(0, self.barred.shape[1], 1)[self.starts]

    def buffer(self, name: str, rows: int, like: torch.Tensor) -> torch.Tensor:
        """Memory [rows, V] for what is computed from logits `like`, kept under its name."""
        held, dtype = self._buffers.get(name), wide(like.dtype)
        width = like.shape[-1]
        wrong = (
            held is None
            or held.shape[1] != width
            or held.dtype != dtype
            or held.device != like.device
        )
        # grows to the largest chunk, and serves smaller ones from its front
        if held is None or wrong or len(held) < rows:
            held = self._buffers[name] = torch.empty(rows, width, dtype=dtype, device=like.device)
        return held[:rows]

    def spans(
        self, logits_MV: torch.Tensor, index_R: torch.Tensor | None, times: int
    ) -> list[tuple[int, int]]:
        """Wanted rows i to j that are worked on at once, on a CPU `times` the rows of a chunk."""
        # a CPU works on a chunk with each of its threads
        rows = len(logits_MV) if index_R is None else len(index_R)
        chunk = chunk_rows(logits_MV) * (times if logits_MV.is_cpu else 1)
        return [(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]

    def read(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        start: int,
        stop: int,
        hide: bool = False,
    ) -> torch.Tensor:
        """The wanted rows start to stop, without suppressed tokens; with `hide` without the mask.

        Float32, but float64 stays; in a buffer that the next call overwrites.
        """
        scores = self.buffer("scores", stop - start, logits_MV)
        # three ways to copy, the cheapest that fits
        if index_R is None:
            scores.copy_(logits_MV[start:stop])
        elif logits_MV.dtype == scores.dtype:
            # straight into the buffer
            torch.index_select(logits_MV, 0, index_R[start:stop], out=scores)
        else:
            # the dtype changes, so a small copy comes between
            scores.copy_(logits_MV.index_select(0, index_R[start:stop]))
        if hide:
            scores[:, self.mask : self.mask + 1] = -torch.inf
        return self.suppress(scores)

    def suppress(self, scores: torch.Tensor) -> torch.Tensor:
        """Bar the suppressed tokens, in place."""
        return scores.index_fill_(1, self.columns, -torch.inf) if len(self.columns) else scores
