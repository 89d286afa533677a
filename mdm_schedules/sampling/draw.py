"""From logits to tokens: one draw and one score per row, in reused buffers, a few rows at a time.

The model's logits are only read. There are three ways to the same tokens: `exact.py` is the one to
read; here is the general one, for any temperature, filter and policy; `fast.py` is taken where it
can be. tests/sampling/test_exact.py compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mdm_schedules.checks import check_int, check_real, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.sampling.fast import FastDraw, Watch
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy
from mdm_schedules.sampling.rows import RowReader, ranked
from mdm_schedules.sampling.segments import inverse_cdf
from mdm_schedules.sampling.trial import check_scores
from mdm_schedules.sampling.where import Where

LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


# ----- Options -----


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
        # checked here as well as in the table of options, for those who call `sample`
        check_real("temperature", self.temperature, 0)
        if self.top_k is not None:
            check_int("top_k", self.top_k, 0)
        if self.top_p is not None:
            check_real("top_p", self.top_p, 0, 1, low_open=True)
        if isinstance(self.suppress_tokens, int | str):
            raise InvalidTypeError(
                f"suppress_tokens must be a list of token ids, got {self.suppress_tokens!r}"
            )
        # tensors and numpy's integers become plain ones
        object.__setattr__(
            self,
            "suppress_tokens",
            [check_int("suppress_tokens", x, 0) for x in self.suppress_tokens],
        )
        if self.logits_processor is not None and not callable(self.logits_processor):
            raise InvalidTypeError(
                f"logits_processor must be callable, got {shown(self.logits_processor)}"
            )


# ----- The draw -----


class TokenDraw:
    """Draws tokens for rows of logits; holds the buffers that successive passes share.

    Probabilities are those of the softmax before temperature and filters, as LLaDA and Dream read
    them: the mask token counts, though it is never drawn; suppressed tokens and what a logits
    processor removes do not.

    Args:
        options: how tokens are drawn.
        policy: scores them, if it looks at the model.
        mask_token_id: what is never drawn.
        watch: is shown the distributions; see `CommitRule.watch_parts`.
    """

    def __init__(
        self,
        options: DrawOptions,
        policy: ConfidencePolicy | OrderPolicy,
        mask_token_id: int,
        watch: Watch | None = None,
    ) -> None:
        self.options, self.watch = options, watch
        self.policy = policy if isinstance(policy, ConfidencePolicy) else None
        #: whether anyone looks at `where`, which is not made otherwise
        self.looks_at_places = watch is not None or (
            self.policy is not None and self.policy.looks_at_places
        )
        self.reader = RowReader(mask_token_id, options.suppress_tokens)
        # the fast draw keeps no probability but the drawn token's, and knows no filters
        filters = bool(options.top_k) or (options.top_p is not None and options.top_p < 1)
        plain = options.temperature in (0, 1) and not filters and options.logits_processor is None
        self.fast = None
        if plain and (self.policy is None or self.policy.token_only):
            self.fast = FastDraw(self.reader, scored=self.policy is not None, watch=watch)

    @torch.no_grad()
    def __call__(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        uniform_R: torch.Tensor | None,
        input_ids: Callable[[int, int], torch.Tensor],
        where: Where | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Draw one token per wanted row.

        Args:
            logits_MV: [M, V] in any floating dtype.
            index_R: LongTensor [R] of the wanted rows; None for all of them.
            uniform_R: float64 [R] in [0, 1), one per row; None at temperature 0.
            input_ids: the sequences [j - i, L] of wanted rows i to j, for a logits processor.
            where: where they lie, a list [R], for policies and rules that look at that.

        Returns:
            tokens [R]; the policy's scores [R] (None for a policy that knows its order); and a bool
            [R] that is False where the logits are unusable (NaN, +inf, or nothing left to draw).
        """
        self.reader.prepare(logits_MV)
        # the fast way at temperature 0 must see ties, for which a host would wait for its device;
        # and at temperature 1 it leaves the mask token out there, which `watch` must not see
        on_device = uniform_R is not None and self.watch is None
        if self.fast is not None and (logits_MV.is_cpu or on_device):
            tokens_R, score_R, usable_R = self.fast(logits_MV, index_R, uniform_R, where)
            return tokens_R, self._token_score(score_R, tokens_R, where), usable_R
        parts = []
        for start, stop in self.reader.spans(logits_MV, index_R, torch.get_num_threads()) or [
            (0, 0)  # no row is wanted: one empty chunk, for the dtypes of the answer
        ]:
            # a copy, which the steps below may change
            scores_RV = self.reader.read(logits_MV, index_R, start, stop)
            scores_RV = self._processed(scores_RV, input_ids, start, stop)
            parts.append(
                self._draw(
                    scores_RV,
                    None if uniform_R is None else uniform_R[start:stop],
                    None if where is None else where.part(start, stop),
                )
            )
        tokens, score, usable = zip(*parts, strict=True)
        return (
            torch.cat(tokens),
            None if score[0] is None else torch.cat(score),
            torch.cat(usable),
        )

    def _processed(
        self,
        scores_RV: torch.Tensor,
        input_ids: Callable[[int, int], torch.Tensor],
        start: int,
        stop: int,
    ) -> torch.Tensor:
        """The scores after the logits processor, in the same buffer."""
        if self.options.logits_processor is None:
            return scores_RV
        processed = self.options.logits_processor(input_ids(start, stop), scores_RV)
        if not isinstance(processed, torch.Tensor) or processed.shape != scores_RV.shape:
            raise InvalidTypeError(
                f"logits_processor must return a tensor of shape {tuple(scores_RV.shape)}"
            )
        if processed is not scores_RV:
            scores_RV.copy_(processed)  # what it returns may be its own, not to be written to
        # it may have raised what must stay out
        return self.reader.suppress(scores_RV)

    def _token_score(
        self, probability_R: torch.Tensor | None, tokens_R: torch.Tensor, where: Where | None
    ) -> torch.Tensor | None:
        """What a `token_only` policy makes of the drawn tokens' probabilities."""
        if self.policy is None or probability_R is None:
            return None
        score_R = self.policy.token_score(probability_R, tokens_R, where)  # type: ignore[arg-type]
        check_scores(score_R, self.policy, tokens_R.shape)
        return score_R

    def probability(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        tokens_R: torch.Tensor,
        input_ids: Callable[[int, int], torch.Tensor],
    ) -> torch.Tensor:
        """The probabilities [R] of given tokens, as a policy would read them."""
        self.reader.prepare(logits_MV)
        parts = []
        for start, stop in self.reader.spans(logits_MV, index_R, torch.get_num_threads()) or [
            (0, 0)
        ]:
            scores_RV = self.reader.read(logits_MV, index_R, start, stop)
            scores_RV = self._processed(scores_RV, input_ids, start, stop)
            logit_R = scores_RV.gather(1, tokens_R[start:stop, None])[:, 0]
            parts.append((logit_R - scores_RV.logsumexp(1)).exp())
        return torch.cat(parts)

    def _draw(
        self,
        scores_RV: torch.Tensor,
        uniform_R: torch.Tensor | None,
        where: Where | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Tokens, scores, and which rows were usable, of one chunk; changes `scores_RV`."""
        # 1. What the policy reads: the softmax in which the mask token counts.
        probs_RV = log_sum_R = None
        if self.policy is not None:
            out = self.reader.buffer("probs", len(scores_RV), scores_RV)
            probs_RV = torch.softmax(scores_RV, 1, out=out)
            if self.watch is not None and where is not None:
                self.watch([scores_RV], probs_RV, where, None)
            if self.policy.token_only:
                # log sum exp = largest logit - its log-probability
                log_sum_R = scores_RV.amax(1) - probs_RV.amax(1).log()
        # 2. The mask token is never drawn.
        mask = scores_RV[:, self.reader.mask : self.reader.mask + 1]
        usable_R = (mask < torch.inf).all(1)
        mask.fill_(-torch.inf)
        # 3. The token: the best one, or one drawn from what temperature and filters leave.
        best_R, tokens_R = scores_RV.max(1)
        usable_R &= best_R.isfinite()
        if uniform_R is not None:
            # less the best, so that a small temperature leaves 0 and -inf, but no inf
            weights_RV = self._tempered(scores_RV - best_R[:, None])
            tokens_R, drawn_R = inverse_cdf(weights_RV, uniform_R)
            usable_R &= drawn_R
        # 4. Its score.
        if self.policy is None or probs_RV is None:
            return tokens_R, None, usable_R
        if log_sum_R is not None:
            probability_R = probs_RV.gather(1, tokens_R[:, None])[:, 0]
            logit_R = scores_RV.gather(1, tokens_R[:, None])[:, 0]
            # a probability that underflows would tie with others
            probability_R = ranked(probability_R, logit_R - log_sum_R)
            return tokens_R, self._token_score(probability_R, tokens_R, where), usable_R
        score_R = self.policy.score_at(probs_RV, tokens_R, where)  # type: ignore[arg-type]
        check_scores(score_R, self.policy, tokens_R.shape)
        return tokens_R, score_R, usable_R

    def _tempered(self, scores_RV: torch.Tensor) -> torch.Tensor:
        """Probabilities after temperature, top_k and top_p, in transformers' order; ties stay."""
        limits = torch.finfo(scores_RV.dtype)
        # a temperature beyond the dtype would become 0 or infinite
        scores_RV = scores_RV.div_(min(max(self.options.temperature, limits.tiny), limits.max))
        # top_k: everything below the k-th logit goes
        if self.options.top_k and self.options.top_k < scores_RV.shape[1]:
            least = scores_RV.topk(self.options.top_k, dim=1).values[:, -1:]
            scores_RV = scores_RV.masked_fill_(scores_RV < least, -torch.inf)
        probs_RV = torch.softmax(scores_RV, 1)
        if self.options.top_p is not None and self.options.top_p < 1:
            # top_p: a token is kept while those above it have less than top_p
            ordered = probs_RV.sort(1, descending=True).values
            before = ordered.cumsum(1, dtype=torch.float64) - ordered
            kept = (before < self.options.top_p).sum(1, keepdim=True).clamp(min=1)
            probs_RV = probs_RV.masked_fill_(probs_RV < ordered.gather(1, kept - 1), 0.0)
        return probs_RV


# ----- The model's side -----


def check_logits(logits: Any, index: Any, rows: int) -> None:
    """The first answer of a denoiser, checked so that a wrong shape has a message of its own."""
    if (
        not isinstance(logits, torch.Tensor)
        or logits.ndim != 2
        or not logits.shape[1]
        or not logits.is_floating_point()
    ):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InvalidTypeError(
            f"the denoiser must return floating logits [rows, vocabulary], got {shape}"
        )
    if logits.is_meta or logits.layout != torch.strided:
        kind = "on the meta device" if logits.is_meta else str(logits.layout)
        raise InvalidTypeError(f"the denoiser must return dense logits with values, got {kind}")
    given = len(logits if index is None else index)
    if given != rows:
        raise InvalidValueError(
            f"the denoiser was asked for {rows} rows of logits and returned {given}"
        )
