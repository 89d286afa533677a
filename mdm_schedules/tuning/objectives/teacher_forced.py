"""How well a schedule explains given text, revealed step by step under the plan and the order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from mdm_schedules.checks import check_int, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.information import InformationProfile
from mdm_schedules.information.data import Data, check_data
from mdm_schedules.models import Denoiser, ModelDenoiser, Pass, as_denoiser, evaluating
from mdm_schedules.models.cache import CacheUse
from mdm_schedules.sampling import ConfidencePolicy, OrderPolicy, Where, sample
from mdm_schedules.sampling.caching import choose_cache
from mdm_schedules.sampling.options import DEFAULTS, GenerateOptions
from mdm_schedules.sampling.policies import get_policy
from mdm_schedules.sampling.quotas import split_steps
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.objectives.base import Objective, Scores, model_name, needed_steps

PROFILE_SEQUENCES = 16
_EXAMPLE = "TeacherForcedObjective(model, sequences, steps=16)"


class TeacherForcedObjective(Objective):
    """Mean log-likelihood per token of given sequences, in nats, revealed under the schedule.

    In each step the model scores the revealed tokens given the earlier ones, as if they were
    independent; sampling makes the same assumption. In random order the mean is minus the entropy
    minus the predicted cost (arXiv 2510.25544). In a confidence order the score includes the effect
    of that order, which no profile does. The objective needs no judge and is far less noisy than
    the quality of samples.

    Args:
        model: as for `InformationProfile.estimate`; run without dropout.
        sequences: clean token ids [S, L], or S rows of different lengths.
        maskable: bool [S, L], or S rows as long as the sequences: True at the tokens to be
            generated; None is all.
        steps: forward passes, if `tune` is given none.
        remasking: position policy. Confidence is that of the model's own best token, as in
            sampling at temperature 0.
        block_length: reveal blocks of so many columns from left to right, counted from the first
            maskable column, or as the model attends; None is one block, or the model's own.
        cache, cache_refresh, cache_refresh_blocks: as in `generate`; they need a model of an
            adapter.
        mask_token_id: by default that of the model's config.
        batch_size: sequences per call of the model.
        seed: sequence i is revealed with the seed `seed` + i.
        name: name of the task, for reports.
    """

    metric_name = "log-likelihood per token"
    direction = "maximize"

    num_instances: int

    def __init__(
        self,
        model: Any,
        sequences: Any,
        maskable: torch.Tensor | Sequence[torch.Tensor] | None = None,
        *,
        steps: int | None = None,
        remasking: str | ConfidencePolicy | OrderPolicy = "random",
        block_length: int | None = None,
        cache: str | None = None,
        cache_refresh: int | None = None,
        cache_refresh_blocks: int | None = None,
        mask_token_id: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        name: str = "teacher-forced likelihood",
    ) -> None:
        self.policy = get_policy(remasking)
        self.groups = check_data(model, sequences, maskable, mask_token_id)
        self.model, self.denoiser = model, as_denoiser(model)
        self.adapter = getattr(self.denoiser, "adapter", None)
        given = {
            "cache": cache,
            "cache_refresh": cache_refresh,
            "cache_refresh_blocks": cache_refresh_blocks,
        }
        self.cache = {key: value for key, value in given.items() if value is not None}
        if self.cache and self.adapter is None:
            raise InvalidTypeError(
                f"cache={cache!r} needs a model that an adapter knows, got {shown(model)}"
            )
        self.block_length = self._own_blocks(block_length)
        self.use: CacheUse | None = None  # of the latest batch
        self.steps = None if steps is None else check_int("steps", steps, 1, example=_EXAMPLE)
        self.batch_size, self.seed, self.name = (
            check_int("batch_size", batch_size, 1),
            check_int("seed", seed, 0),
            name,
        )
        self.model_name = model_name(model)
        # instance -> its group, and its row there
        self._places = {
            index: (data, row) for data in self.groups for row, index in enumerate(data.index)
        }
        self.num_instances = len(self._places)
        sizes = {data.num_tokens for data in self.groups}
        self.num_tokens = sizes.pop() if len(sizes) == 1 else None

    def _own_blocks(self, block_length: int | None) -> int | None:
        """The length of blocks: the model's own, or what was asked for."""
        own = getattr(self.adapter, "block_length", None)
        if block_length is not None:
            check_int("block_length", block_length, 1, example="block_length=32")
            if own not in (None, block_length):
                raise InvalidValueError(
                    f"this model attends by blocks of {own}, got block_length={block_length}"
                )
        return own or block_length

    def _ends(self, data: Data) -> list[int]:
        """The columns after the last of each block."""
        length, block = data.tokens.shape[1], self.block_length
        if block is None:
            return [length]
        first = int(data.places.min())
        first -= first % block if getattr(self.adapter, "block_length", None) else 0
        return [*range(first + block, length, block), length]

    def _cached(self, data: Data, canvas: torch.Tensor, ends: list[int]) -> Denoiser:
        """The model for one batch of sequences, with the cache that was asked for."""
        if not self.cache or self.adapter is None:
            return self.denoiser
        real = torch.ones_like(canvas, dtype=torch.bool)
        prompt = _Canvas(canvas, real, int(data.places.min()), ends, data.mask_token_id)
        chosen = cast(GenerateOptions, {**DEFAULTS, **self.cache})
        return ModelDenoiser(self.adapter, cache=choose_cache(self.adapter, chosen, prompt))

    @property
    def remasking(self) -> str:
        """Name of the position policy."""
        return self.policy.name

    @property
    def sampler(self) -> dict[str, Any]:
        """The position policy, for the Hub."""
        told = {"remasking": self.remasking, **self.cache}
        return told if self.block_length is None else {**told, "block_length": self.block_length}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a resumed study must share."""
        told = {
            **self.sampler,
            "seed": self.seed,
            "model": self.model_name,
            "steps": self.steps,
        }
        # A digest recognises the same sequences without copying them into every study.
        rows = [self._row(index) for index in range(self.num_instances)]
        texts = repr(([one.tolist() for one, _ in rows], [one.tolist() for _, one in rows]))
        return {**told, "sequences": hashlib.sha256(texts.encode()).hexdigest()[:16]}

    def plan_key(self, schedule: Schedule, steps: int | None) -> str | None:
        """The plans, unless the policy's counts are random."""
        count = needed_steps(steps, self.steps, _EXAMPLE)
        sizes = sorted({data.num_tokens for data in self.groups})
        plans = [schedule.plan(size, count).tolist() for size in sizes]
        if self.policy.random_counts or any(len(self._ends(data)) > 1 for data in self.groups):
            return None
        return str(plans[0] if len(plans) == 1 else plans)

    def estimate_profile(
        self, instances: Sequence[int] | None = None, **options: Any
    ) -> InformationProfile:
        """The information profile of the model on these sequences.

        Args:
            instances: indices of the sequences; by default all. The first 16 are used.
            **options: options of `InformationProfile.estimate`.
        """
        batch = list(range(self.num_instances) if instances is None else instances)
        rows = [self._row(index) for index in batch[:PROFILE_SEQUENCES]]
        return InformationProfile.estimate(
            self.model,
            [tokens for tokens, _ in rows],
            maskable=[
                torch.zeros_like(tokens, dtype=torch.bool).index_fill(0, places, True)
                for tokens, places in rows
            ],
            **{"mask_token_id": self.groups[0].mask_token_id, **options},
        )

    def _row(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        data, row = self._places[index]
        return data.tokens[row], data.places[row]

    def __call__(
        self, schedule: Schedule, steps: int | None = None, instances: Sequence[int] | None = None
    ) -> Scores:
        """The log-likelihood per token of each sequence."""
        wanted = list(range(self.num_instances)) if instances is None else list(instances)
        count, passes = needed_steps(steps, self.steps, _EXAMPLE), 0
        values: dict[int, float] = {}
        for data in self.groups:
            own = [index for index in wanted if self._places[index][0] is data]
            for begin in range(0, len(own), self.batch_size):
                batch = own[begin : begin + self.batch_size]
                scores, spent = self._score(data, batch, schedule, count)
                values |= zip(batch, scores, strict=True)
                passes += spent
        return Scores([values[index] for index in wanted], {}, passes)

    def _score(
        self, data: Data, batch: Sequence[int], schedule: Schedule, steps: int
    ) -> tuple[list[float], int]:
        """Log-likelihoods per token of a batch of one group, and the passes."""
        rows = torch.tensor([self._places[index][1] for index in batch], device=data.tokens.device)
        truth, places = data.tokens[rows], data.places[rows]
        # The sampler's own loop runs, so the order is exactly that of generation.
        canvas, ends = truth.scatter(1, places, data.mask_token_id), self._ends(data)
        with evaluating(self.model):
            denoiser = self._cached(data, canvas, ends)
            teacher = _Teacher(denoiser, truth, self.policy, data.mask_token_id)
            out = sample(
                teacher,
                canvas,
                mask_token_id=data.mask_token_id,
                schedule=schedule,
                steps=_shares(data, ends, steps),
                block_ends=ends,
                remasking="low_confidence"
                if isinstance(self.policy, ConfidencePolicy)
                else self.policy,
                seed=[self.seed + index for index in batch],
            )
        cache = getattr(denoiser, "cache", None)
        self.use = None if cache is None else cache.use
        return (teacher.total() / data.num_tokens).tolist(), out.nfe * len(batch)


def _shares(data: Data, ends: list[int], steps: int) -> int | list[int]:
    """The passes of each block."""
    if len(ends) == 1:
        return steps
    spans = zip([0, *ends[:-1]], ends, strict=True)
    masks = [int(((data.places >= i) & (data.places < j)).sum(1).max()) for i, j in spans]
    return split_steps(steps, masks)


@dataclass(frozen=True)
class _Canvas:
    tokens: torch.Tensor
    attention_mask: torch.Tensor
    length: int
    block_ends: list[int]
    mask_token_id: int


class _Teacher(Denoiser):
    """A denoiser that makes the sampling loop reveal the true tokens, and sums their scores.

    It answers with logits of two tokens. The true token has a probability above one half, in
    float64, so that the loop draws it at temperature 0. The probability rises with the policy's
    score, so that the order is the policy's.
    """

    whole_batch = True  # the true tokens are stored by row

    def __init__(
        self,
        denoiser: Denoiser,
        truth: torch.Tensor,
        policy: ConfidencePolicy | OrderPolicy,
        mask: int,
    ) -> None:
        self.denoiser, self.truth, self.policy, self.mask = denoiser, truth, policy, mask
        self.place: Where | None = None
        self.span = (0, truth.shape[1])
        # Log-probability of each true token in the latest pass that scored it.
        self.known = torch.zeros(truth.shape, dtype=torch.float64, device=truth.device)

    def __call__(self, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        answer = self.denoiser(tokens, rows)
        logits = answer[0][answer[1]] if isinstance(answer, tuple) else answer
        scores = logits.to(
            torch.float64 if logits.dtype == torch.float64 else torch.float32, copy=True
        )
        probs = scores.softmax(1) if isinstance(self.policy, ConfidencePolicy) else None
        # The mask is no text, so its probability is shared among the other tokens.
        scores[:, self.mask : self.mask + 1] = -torch.inf
        logs = torch.log_softmax(scores, 1)
        true = self.truth.flatten()[rows]
        # Each pass overwrites the scores of positions still hidden, so the score that remains is
        # from the pass that revealed the token.
        self.known.view(-1)[rows] = logs.gather(1, true[:, None])[:, 0].double()
        chance = torch.full((len(rows),), 0.6, dtype=torch.float64, device=rows.device)
        if isinstance(self.policy, ConfidencePolicy) and probs is not None:
            where = self._where(tokens, rows)
            score = self.policy.score_at(probs, logs.argmax(1), where).double()
            # Ranks fit any policy's range into (0.6, 0.9), and ties remain ties.
            ranks = score.unique(return_inverse=True)[1]
            chance += 0.3 * ranks / (ranks.max() + 1.0)
        out = torch.full(
            (len(rows), logits.shape[1]), -torch.inf, dtype=torch.float64, device=rows.device
        )
        first, second = [token for token in range(logits.shape[1]) if token != self.mask][:2]
        # Any second token will do: it only carries the rest of the probability.
        out.scatter_(
            1, torch.where(true == first, second, first)[:, None], (1 - chance).log()[:, None]
        )
        return out.scatter_(1, true[:, None], chance.log()[:, None])

    def at(self, where: Pass) -> None:
        if self.span != (where.start, where.end):
            self.span, self.place = (where.start, where.end), None
        self.denoiser.at(where)

    def close(self) -> None:
        self.denoiser.close()

    def _where(self, tokens: torch.Tensor, rows: torch.Tensor) -> Where:
        """Where the positions lie, for policies that look at that."""
        # the first pass of a block sees all its masks
        if self.place is None:
            start, end = self.span
            hidden = tokens == self.mask
            hidden[:, :start], hidden[:, end:] = False, False
            self.place = Where.whole(tokens, hidden).flat()
        return replace(self.place, tokens=tokens).pick(rows)

    def total(self) -> torch.Tensor:
        """Log-likelihood of each row, float64 [B]."""
        return self.known.sum(1).cpu()
