"""From logits to tokens: one draw and one score per row, in reused buffers, a few rows at a time.

The model's logits are only read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy
from mdm_schedules.sampling.segments import by_segment, inverse_cdf, search, windows_of

# of float32 that are worked on at once (on a CPU by each thread), so that memory does not grow with
# the batch
CHUNK_BYTES = {"cpu": 1 << 19}
DEFAULT_CHUNK_BYTES = 16 << 20
# columns; shorter rows are copied in less time than it takes to find which are neighbours
READ_IN_PLACE = 16_384
# of all tokens but the mask, for a draw from the softmax in which the mask counts
LEAST_MASS = 1e-12

LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class DrawOptions:
    """How a token is drawn from a row of logits.

    Attributes:
        temperature: >= 0; 0 takes the most probable token.
        top_k: keep the k most probable tokens; None or 0 keeps all.
        top_p: keep the smallest set with at least this probability, in (0, 1]; None or 1 keeps all.
        suppress_tokens: token ids that are never drawn, besides the mask token.
        logits_processor: as in transformers, (input_ids [R, L], scores [R, V]) -> scores [R, V],
            before the draw.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    suppress_tokens: Sequence[int] = ()
    logits_processor: LogitsProcessor | None = None

    def __post_init__(self) -> None:
        check_real("temperature", self.temperature, 0)
        if self.top_k is not None:
            check_int("top_k", self.top_k, 0)
        if self.top_p is not None:
            check_real("top_p", self.top_p, 0, 1, low_open=True)
        if isinstance(self.suppress_tokens, int | str):
            raise InvalidTypeError(
                f"suppress_tokens must be a list of token ids, got {self.suppress_tokens!r}"
            )
        object.__setattr__(
            self,
            "suppress_tokens",
            [check_int("suppress_tokens", x, 0) for x in self.suppress_tokens],
        )
        if self.logits_processor is not None and not callable(self.logits_processor):
            raise InvalidTypeError(
                f"logits_processor must be callable, got {self.logits_processor!r}"
            )


class TokenDraw:
    """Draws tokens for rows of logits; holds the buffers that successive steps share.

    Probabilities are those of the softmax before temperature and filters, as LLaDA and Dream read
    them: the mask token counts, though it is never drawn; suppressed tokens and what a logits
        processor removes do not.
    """

    def __init__(
        self, options: DrawOptions, policy: ConfidencePolicy | OrderPolicy, mask_token_id: int
    ) -> None:
        self.options = options
        self.policy = policy if isinstance(policy, ConfidencePolicy) else None
        self.mask = mask_token_id
        filters = bool(options.top_k) or (options.top_p is not None and options.top_p < 1)
        plain = options.temperature in (0, 1) and not filters and options.logits_processor is None
        # then one softmax of the logits as they are is enough; at temperature 0 only where the host
        # sees ties
        self.lean = plain and (self.policy is None or self.policy.token_only)
        self._buffers: dict[str, torch.Tensor] = {}
        self._columns: torch.Tensor | None = None

    @torch.no_grad()
    def __call__(
        self,
        logits: torch.Tensor,
        index: torch.Tensor | None,
        uniform: torch.Tensor | None,
        input_ids: Callable[[int, int], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Draw one token per wanted row.

        Args:
            logits: [M, V] in any floating dtype.
            index: LongTensor [R] of the wanted rows; None for all of them.
            uniform: float64 [R] in [0, 1), one per row; None at temperature 0.
            input_ids: the sequences of wanted rows i to j, for a logits processor.

        Returns:
            tokens [R]; the policy's scores [R] (None for a policy that knows its order); and a bool
            [R] that is False where the logits are unusable (NaN, +inf, or nothing left to draw).
        """
        if self._columns is None:
            self._prepare(logits)
        if self.lean and (uniform is not None or logits.is_cpu):
            return self._lean(logits, index, uniform)
        parts = []
        for start, stop in self._spans(logits, index, torch.get_num_threads()) or [(0, 0)]:
            scores = self._processed(
                self._scores(logits, index, start, stop), input_ids, start, stop
            )
            parts.append(self._draw(scores, None if uniform is None else uniform[start:stop]))
        tokens, confidence, usable = zip(*parts, strict=True)
        return (
            torch.cat(tokens),
            None if confidence[0] is None else torch.cat(confidence),
            torch.cat(usable),
        )

    def _prepare(self, logits: torch.Tensor) -> None:
        """What follows from the size of the vocabulary."""
        vocabulary, device = logits.shape[1], logits.device
        columns = sorted({column for column in self.options.suppress_tokens if column < vocabulary})
        self._columns = torch.tensor(columns, dtype=torch.long, device=device)
        self._mask_counts = self.mask < vocabulary and self.mask not in columns
        self._starts, self._barred = windows_of(vocabulary, device)
        barred = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        barred[self._columns] = True
        barred[self.mask : self.mask + 1] = True
        self._barred |= barred.unfold(0, self._barred.shape[1], 1)[self._starts]

    def _buffer(self, name: str, rows: int, like: torch.Tensor) -> torch.Tensor:
        held, dtype = self._buffers.get(name), _wide(like.dtype)
        width = like.shape[-1]
        wrong = (
            held is None
            or held.shape[1] != width
            or held.dtype != dtype
            or held.device != like.device
        )
        if held is None or wrong or len(held) < rows:
            held = self._buffers[name] = torch.empty(rows, width, dtype=dtype, device=like.device)
        return held[:rows]

    def _spans(
        self, logits: torch.Tensor, index: torch.Tensor | None, times: int
    ) -> list[tuple[int, int]]:
        """Wanted rows i to j that are worked on at once, on a CPU `times` the rows of a chunk."""
        rows = len(logits) if index is None else len(index)
        chunk = chunk_rows(logits) * (times if logits.is_cpu else 1)
        return [(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]

    def _scores(
        self,
        logits: torch.Tensor,
        index: torch.Tensor | None,
        start: int,
        stop: int,
        hide: bool = False,
    ) -> torch.Tensor:
        """The wanted rows i to j in float32 (float64 stays), in a buffer of ours, without
        suppressed tokens.

        With `hide` without the mask token, too.
        """
        scores = self._buffer("scores", stop - start, logits)
        if index is None:
            scores.copy_(logits[start:stop])
        elif logits.dtype == scores.dtype:
            torch.index_select(logits, 0, index[start:stop], out=scores)
        else:
            scores.copy_(logits.index_select(0, index[start:stop]))
        if hide:
            scores[:, self.mask : self.mask + 1] = -torch.inf
        return self._suppress(scores)

    def _suppress(self, scores: torch.Tensor) -> torch.Tensor:
        assert self._columns is not None
        return scores.index_fill_(1, self._columns, -torch.inf) if len(self._columns) else scores

    def _processed(
        self,
        scores: torch.Tensor,
        input_ids: Callable[[int, int], torch.Tensor],
        start: int,
        stop: int,
    ) -> torch.Tensor:
        if self.options.logits_processor is None:
            return scores
        processed = self.options.logits_processor(input_ids(start, stop), scores)
        if not isinstance(processed, torch.Tensor) or processed.shape != scores.shape:
            raise InvalidTypeError(
                f"logits_processor must return a tensor of shape {tuple(scores.shape)}"
            )
        if processed is not scores:
            scores.copy_(processed)  # it may be the processor's own
        return self._suppress(scores)

    def _lean(
        self, logits: torch.Tensor, index: torch.Tensor | None, uniform: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Temperature 0 or 1: one softmax of each row, of which only maxima or sums by segment are
        kept.
        """
        row = torch.arange(len(logits), device=logits.device) if index is None else index
        if uniform is None:
            tokens, logs = self._best(logits, index, row)
        else:
            tokens, logs = self._drawn(logits, index, row, uniform)
        confidence = (
            None if self.policy is None else _ranked(logs.exp().to(_wide(logits.dtype)), logs)
        )
        return tokens, confidence, logs.isfinite()

    def _best(
        self, logits: torch.Tensor, index: torch.Tensor | None, row: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first token with the largest logit, and its log-probability; on a CPU."""
        table = self._segments(logits, index, torch.log_softmax, torch.amax, -torch.inf)
        logs, segment = table.max(1)
        values = self._inside(logits, row, segment)
        tokens = self._starts[segment] + (values == values.amax(1, keepdim=True)).to(
            torch.uint8
        ).argmax(1)
        # log-probabilities of several segments may be rounded to the same number where their logits
        # differ
        tied = torch.from_numpy(np.flatnonzero(((table == logs[:, None]).sum(1) > 1).numpy()))
        again = row[tied]
        for start, stop in self._spans(logits, tied, torch.get_num_threads()):
            tokens[tied[start:stop]] = self._scores(logits, again, start, stop, hide=True).argmax(1)
        return tokens, logs

    def _drawn(
        self,
        logits: torch.Tensor,
        index: torch.Tensor | None,
        row: torch.Tensor,
        uniform: torch.Tensor,
        hide: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A token drawn from each row, and its log-probability.

        With `hide` the softmax leaves out the mask token, as it must where the mask has nearly all
        probability.
        """
        hide = hide or not logits.is_cpu  # a device is not asked whether it must
        table = self._segments(logits, index, torch.softmax, torch.sum, 0, hide)
        segment, place, share, total = search(
            table, uniform, lambda segment: self._inside(logits, row, segment).softmax(1)
        )
        tokens = self._starts[segment] + place
        logs = share.mul_(table.gather(1, segment[:, None])[:, 0]).log_()
        if not hide:
            few = torch.from_numpy(np.flatnonzero(total.numpy() < LEAST_MASS))
            if len(few):
                tokens[few], logs[few] = self._drawn(
                    logits, row[few], row[few], uniform[few], hide=True
                )
        elif self._mask_counts:
            # the log-sum of the others is the token's logit less its log-probability among them
            above = logits[row, self.mask].double() - logits[row, tokens].double() + logs
            logs = logs - torch.logaddexp(above, torch.zeros_like(above))
        return tokens, logs

    def _segments(
        self,
        logits: torch.Tensor,
        index: torch.Tensor | None,
        softmax: Callable[..., torch.Tensor],
        reduce: Callable[..., torch.Tensor],
        nothing: float,
        hide: bool = False,
    ) -> torch.Tensor:
        """`reduce` by segment [R, segments] of the rows' softmax, with `nothing` where the mask is.

        The mask counts in the softmax unless `hide`. Long rows are read in place where nothing must
        be changed in them and the host knows which are neighbours.
        """
        assert self._columns is not None
        rows = len(logits) if index is None else len(index)
        table = logits.new_empty(rows, len(self._starts), dtype=_wide(logits.dtype))
        as_they_are = logits.dtype == table.dtype and not (hide or len(self._columns))
        in_place = as_they_are and (
            index is None or (index.is_cpu and logits.shape[1] >= READ_IN_PLACE)
        )
        # each operation reads a row once, so many rows pay
        for start, stop in self._spans(logits, index, 16):
            probs = self._buffer("probs", stop - start, logits)
            if in_place:
                parts = _neighbours(logits, index, start, stop)
            else:
                parts = [self._scores(logits, index, start, stop, hide)]
            for part, out in zip(parts, probs.split([len(part) for part in parts]), strict=True):
                softmax(part, 1, out=out)
            probs[:, self.mask : self.mask + 1] = nothing
            by_segment(probs, reduce, table[start:stop])
        return table

    def _inside(
        self, logits: torch.Tensor, row: torch.Tensor, segment: torch.Tensor
    ) -> torch.Tensor:
        """The logits [R, width] in a segment of each row, without what is never drawn."""
        values = logits.unfold(1, self._barred.shape[1], 1)[row, self._starts[segment]]
        return values.to(_wide(logits.dtype)).masked_fill_(self._barred[segment], -torch.inf)

    def _draw(
        self, scores: torch.Tensor, uniform: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        probs = log_sum = None
        if self.policy is not None:
            probs = torch.softmax(scores, 1, out=self._buffer("probs", len(scores), scores))
        if probs is not None and self.policy is not None and self.policy.token_only:
            log_sum = scores.amax(1) - probs.amax(1).log()
        mask = scores[:, self.mask : self.mask + 1]
        usable = (mask < torch.inf).all(1)
        mask.fill_(-torch.inf)
        best, tokens = scores.max(1)
        usable &= best.isfinite()
        if uniform is not None:
            tokens, drawn = inverse_cdf(self._tempered(scores - best[:, None]), uniform)
            usable &= drawn
        if self.policy is None or probs is None:
            return tokens, None, usable
        confidence = self.policy.score(probs, tokens)
        if log_sum is not None:
            confidence = _ranked(confidence, scores.gather(1, tokens[:, None])[:, 0] - log_sum)
        return tokens, confidence, usable & ~confidence.isnan()

    def _tempered(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities after temperature, top_k and top_p, in that order (as transformers does);
        ties are kept.
        """
        limits = torch.finfo(scores.dtype)
        scores = scores.div_(min(max(self.options.temperature, limits.tiny), limits.max))
        if self.options.top_k and self.options.top_k < scores.shape[1]:
            least = scores.topk(self.options.top_k, dim=1).values[:, -1:]
            scores = scores.masked_fill_(scores < least, -torch.inf)
        probs = torch.softmax(scores, 1)
        if self.options.top_p is not None and self.options.top_p < 1:
            ordered = probs.sort(1, descending=True).values
            before = ordered.cumsum(1, dtype=torch.float64) - ordered
            kept = (before < self.options.top_p).sum(1, keepdim=True).clamp(min=1)
            probs = probs.masked_fill_(probs < ordered.gather(1, kept - 1), 0.0)
        return probs


def chunk_rows(logits: torch.Tensor) -> int:
    """Rows of the vocabulary [..., V] that are worked on at once."""
    return max(
        1, CHUNK_BYTES.get(logits.device.type, DEFAULT_CHUNK_BYTES) // (4 * logits.shape[-1])
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _ranked(probability: torch.Tensor, log_probability: torch.Tensor) -> torch.Tensor:
    """The probability, or its logarithm where it underflows (the mask far above the rest): lower,
    and still ordered.
    """
    tiny = torch.finfo(probability.dtype).tiny
    return torch.where(probability < tiny, log_probability.to(probability.dtype), probability)


def _neighbours(
    logits: torch.Tensor, index: torch.Tensor | None, start: int, stop: int
) -> list[torch.Tensor]:
    """Views of the wanted rows i to j, one for each run of rows that follow one another; `index`
    is on the host.
    """
    if index is None:
        return [logits[start:stop]]
    row = index[start:stop].numpy()
    cuts = [0, *(np.flatnonzero(np.diff(row) != 1) + 1), len(row)]
    return [logits[row[i] : row[i] + j - i] for i, j in pairwise(cuts)]


def check_logits(logits: Any, index: Any, rows: int) -> None:
    """The first answer of a denoiser, checked so that a wrong shape is told as such."""
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InvalidTypeError(
            f"the denoiser must return floating logits [rows, vocabulary], got {shape}"
        )
    given = len(logits if index is None else index)
    if given != rows:
        raise InvalidValueError(
            f"the denoiser was asked for {rows} rows of logits and returned {given}"
        )
