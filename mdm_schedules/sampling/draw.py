"""From logits to tokens: one draw and one score per row, in reused buffers, a few rows at a time.

The model's logits are only read. Confidence comes from the float32 softmax before temperature and filters, in which the
mask token counts, as for LLaDA and Dream, though it is never drawn; suppressed tokens do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, check_int, check_real
from mdm_schedules.sampling.policy import ConfidencePolicy, LowConfidence, OrderPolicy

# per buffer; two buffers are kept, whatever the batch and vocabulary. On a CPU they stay in its cache.
CHUNK_BYTES = {"cpu": 1 << 19}
DEFAULT_CHUNK_BYTES = 16 << 20
SEGMENT = 512  # columns of the vocabulary that are summed up first

LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class DrawOptions:
    """How a token is drawn from a row of logits.

    Attributes:
        temperature: >= 0; 0 takes the most probable token.
        top_k: keep the k most probable tokens; None or 0 keeps all.
        top_p: keep the smallest set with at least this probability, in (0, 1]; None or 1 keeps all.
        suppress_tokens: token ids that are never drawn, besides the mask token.
        logits_processor: as in transformers, (input_ids [R, L], scores [R, V]) -> scores [R, V], before the draw.
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
            raise InvalidTypeError(f"suppress_tokens must be a list of token ids, got {self.suppress_tokens!r}")
        object.__setattr__(self, "suppress_tokens", [check_int("suppress_tokens", x, 0) for x in self.suppress_tokens])
        if self.logits_processor is not None and not callable(self.logits_processor):
            raise InvalidTypeError(f"logits_processor must be callable, got {self.logits_processor!r}")


class TokenDraw:
    """Draws tokens for rows of logits; holds the buffers that successive steps share."""

    def __init__(self, options: DrawOptions, policy: ConfidencePolicy | OrderPolicy, mask_token_id: int) -> None:
        self.options = options
        self.policy = policy if isinstance(policy, ConfidencePolicy) else None
        self.hidden = sorted({mask_token_id, *options.suppress_tokens})
        self.mask = None if mask_token_id in options.suppress_tokens else mask_token_id
        filters = bool(options.top_k) or (options.top_p is not None and options.top_p < 1)
        plain = options.temperature in (0, 1) and not filters and options.logits_processor is None
        # then sums and maxima of the rows are enough, without their probabilities
        self.lean = plain and (self.policy is None or type(self.policy) is LowConfidence)
        self._buffers: dict[str, torch.Tensor] = {}
        self._columns: torch.Tensor | None = None

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
            tokens [R]; the policy's scores [R] (None for a policy that knows its order); and a bool [R] that is False
            where the logits are unusable (NaN, +inf, or nothing left to draw).
        """
        if self._columns is None:
            columns = [column for column in self.hidden if column < logits.shape[1]]
            self._columns = torch.tensor(columns, dtype=torch.long, device=logits.device)
        rows = len(logits) if index is None else len(index)
        chunk = chunk_rows(logits)
        spans = [(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]
        if self.lean:
            return self._lean(logits, index, uniform, spans)
        parts = []
        for start, stop in spans:
            scores = self._processed(self._scores(logits, index, start, stop), input_ids, start, stop)
            mask = self._mask_logits(logits, index, start, stop)
            parts.append(self._draw(scores, None if uniform is None else uniform[start:stop], mask))
        tokens, confidence, usable = zip(*parts, strict=True)
        return torch.cat(tokens), None if confidence[0] is None else torch.cat(confidence), torch.cat(usable)

    def _buffer(self, name: str, rows: int, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        held = self._buffers.get(name)
        width = like.shape[-1]
        wrong = held is None or held.shape[1] != width or held.dtype != dtype or held.device != like.device
        if held is None or wrong or len(held) < rows:
            held = self._buffers[name] = torch.empty(rows, width, dtype=dtype, device=like.device)
        return held[:rows]

    def _scores(self, logits: torch.Tensor, index: torch.Tensor | None, start: int, stop: int) -> torch.Tensor:
        """The wanted rows in float32 (float64 stays), in a buffer of ours, without what is never drawn."""
        dtype = _wide(logits.dtype)
        target = self._buffer("scores", stop - start, logits, dtype)
        if index is None:
            target.copy_(logits[start:stop])
        elif logits.dtype == dtype:
            torch.index_select(logits, 0, index[start:stop], out=target)
        else:
            target.copy_(logits.index_select(0, index[start:stop]))
        return self._hide(target)

    def _mask_logits(
        self, logits: torch.Tensor, index: torch.Tensor | None, start: int, stop: int
    ) -> torch.Tensor | None:
        """The mask token's logits in the wanted rows, float64; None where it does not count."""
        if self.policy is None or self.mask is None or self.mask >= logits.shape[1]:
            return None
        column = logits[:, self.mask]
        return (column[start:stop] if index is None else column[index[start:stop]]).double()

    def _hide(self, scores: torch.Tensor) -> torch.Tensor:
        assert self._columns is not None
        if len(self._columns) == 1:
            scores[:, self.hidden[0]] = -torch.inf
        elif len(self._columns):
            scores.index_fill_(1, self._columns, -torch.inf)
        return scores

    def _processed(
        self, scores: torch.Tensor, input_ids: Callable[[int, int], torch.Tensor], start: int, stop: int
    ) -> torch.Tensor:
        if self.options.logits_processor is None:
            return scores
        processed = self.options.logits_processor(input_ids(start, stop), scores)
        if not isinstance(processed, torch.Tensor) or processed.shape != scores.shape:
            raise InvalidTypeError(f"logits_processor must return a tensor of shape {tuple(scores.shape)}")
        return self._hide(processed.to(scores.dtype))

    def _lean(
        self,
        logits: torch.Tensor,
        index: torch.Tensor | None,
        uniform: torch.Tensor | None,
        spans: list[tuple[int, int]],
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Temperature 0 or 1: each row is read once for maxima and sums by segment; the rest needs one segment."""
        rows, vocabulary, dtype = spans[-1][1], logits.shape[1], _wide(logits.dtype)
        maxima = logits.new_empty(rows, -(-vocabulary // SEGMENT), dtype=dtype)
        sums, columns = torch.empty_like(maxima), torch.tensor([]) if self._columns is None else self._columns
        for start, stop in spans:
            scores = self._scores(logits, index, start, stop)
            _by_segment(scores, torch.amax, maxima[start:stop])
            if uniform is not None or self.policy is not None:
                weights = scores.sub_(maxima[start:stop].amax(1, keepdim=True)).exp_()
                _by_segment(weights, torch.sum, sums[start:stop])

        def inside(segment: torch.Tensor) -> torch.Tensor:
            row = torch.arange(rows, device=logits.device) if index is None else index
            column = _columns(segment, vocabulary)
            values = logits[row[:, None], column.clamp(max=vocabulary - 1)].to(dtype)
            return values.masked_fill((column >= vocabulary) | torch.isin(column, columns), -torch.inf)

        mask = self._mask_logits(logits, index, 0, rows)
        if uniform is None:
            best, tokens = _first_maximum(maxima, inside)
            usable, confidence = best.isfinite(), 1 / sums.sum(1)
            if mask is not None:
                confidence = (1 / (sums.sum(1).double() + (mask - best).exp())).to(dtype)
            return tokens, None if self.policy is None else confidence, usable
        best = maxima.amax(1, keepdim=True)
        tokens, weight, total = _search(sums, uniform, lambda segment: (inside(segment) - best).exp())
        usable = (total > 0) & total.isfinite()
        counted = total if mask is None else total + (mask - best[:, 0]).exp()
        return tokens, None if self.policy is None else (weight / counted).to(dtype), usable

    def _draw(
        self, scores: torch.Tensor, uniform: torch.Tensor | None, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        probs = None
        if self.policy is not None:
            probs = torch.softmax(scores, 1, out=self._buffer("probs", len(scores), scores, scores.dtype))
        if probs is not None and mask is not None:
            others = scores.amax(1).double() - probs.amax(1).double().log()  # log of their summed weights
            probs.mul_(torch.sigmoid(others - mask).to(probs.dtype)[:, None])
            probs[:, self.mask] = torch.sigmoid(mask - others).to(probs.dtype)
        if uniform is None:
            best, tokens = scores.max(1)
            usable = best.isfinite()
        else:
            tokens, usable = inverse_cdf(self._tempered(scores), uniform)
        if self.policy is None or probs is None:
            return tokens, None, usable
        confidence = self.policy.score(probs, tokens)
        return tokens, confidence, usable & ~confidence.isnan()

    def _tempered(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities after temperature, top_k and top_p, in that order (as transformers does); ties are kept."""
        scores = scores.sub_(scores.amax(1, keepdim=True)).div_(self.options.temperature)
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
    return max(1, CHUNK_BYTES.get(logits.device.type, DEFAULT_CHUNK_BYTES) // (4 * logits.shape[-1]))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _by_segment(values: torch.Tensor, reduce: Callable[..., torch.Tensor], out: torch.Tensor) -> None:
    """`reduce` over each segment of the vocabulary, the last one shorter, into out [R, ceil(V / SEGMENT)]."""
    whole = values.shape[1] // SEGMENT
    if whole:
        out[:, :whole] = reduce(values[:, : whole * SEGMENT].unflatten(1, (whole, SEGMENT)), 2)
    if whole < out.shape[1]:
        out[:, whole] = reduce(values[:, whole * SEGMENT :], 1)


def _columns(segment: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """The columns [R, SEGMENT] of one segment per row, segment [R, 1]; fewer in a vocabulary that is smaller."""
    return segment * SEGMENT + torch.arange(min(SEGMENT, vocabulary), device=segment.device)


def _first_maximum(
    maxima: torch.Tensor, inside: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest value of each row and its first column, from the maxima by segment [R, segments].

    `inside` gives the values [R, SEGMENT] in one segment per row.
    """
    best, segment = maxima.max(1, keepdim=True)
    first = (inside(segment) == best).to(torch.uint8).argmax(1, keepdim=True)
    return best[:, 0], (segment * SEGMENT + first)[:, 0]


def _search(
    sums: torch.Tensor, uniform: torch.Tensor, inside: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw from each row of weights by one uniform number, from the sums by segment [R, segments].

    Float32 within a segment of 512, float64 across segments: no mass is lost in a large vocabulary.

    Returns:
        tokens [R], never one of weight zero; their weights, and the rows' totals, float64 [R].
    """
    running = sums.double().cumsum(1)
    total = running[:, -1:]
    # below the total even after rounding, so that the search ends on a segment with weight
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    segment = torch.searchsorted(running, target, right=True).clamp(max=sums.shape[1] - 1)
    weights = inside(segment).double()
    within = weights.cumsum(1)
    end = within[:, -1:]
    target = (target - (running.gather(1, segment) - sums.gather(1, segment))).clamp(min=0)
    target = torch.minimum(target, torch.nextafter(end, torch.zeros_like(end)))
    place = torch.searchsorted(within, target, right=True).clamp(max=weights.shape[1] - 1)
    return (segment * SEGMENT + place)[:, 0], weights.gather(1, place)[:, 0], total[:, 0]


def inverse_cdf(probs: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from each row of non-negative weights by one uniform number, through sums on two levels.

    Args:
        probs: [R, V] weights, not necessarily normalised.
        uniform: float64 [R] in [0, 1).

    Returns:
        tokens [R], never one of weight zero, and a bool [R] that is False where the weights are NaN or all zero.
    """
    vocabulary = probs.shape[1]
    sums = probs.new_empty(len(probs), -(-vocabulary // SEGMENT))
    _by_segment(probs, torch.sum, sums)

    def inside(segment: torch.Tensor) -> torch.Tensor:
        column = _columns(segment, vocabulary)
        return probs.gather(1, column.clamp(max=vocabulary - 1)).masked_fill(column >= vocabulary, 0)

    tokens, _, total = _search(sums, uniform, inside)
    return tokens.clamp(max=vocabulary - 1), (total > 0) & total.isfinite()


def check_logits(logits: Any, index: Any, rows: int) -> None:
    """The first answer of a denoiser, checked so that a wrong shape is told as such."""
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InvalidTypeError(f"the denoiser must return floating logits [rows, vocabulary], got {shape}")
    given = len(logits if index is None else index)
    if given != rows:
        raise InvalidValueError(f"the denoiser was asked for {rows} rows of logits and returned {given}")
