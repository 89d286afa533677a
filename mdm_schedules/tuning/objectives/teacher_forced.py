"""How well a schedule explains given text, revealed step by step under the plan and the order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mdm_schedules.checks import check_int
from mdm_schedules.information.estimate import check_data
from mdm_schedules.models import Denoiser, as_denoiser, evaluating
from mdm_schedules.sampling import ConfidencePolicy, OrderPolicy, Where, sample
from mdm_schedules.sampling.policies import get_policy
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.objectives.base import Objective, Scores, model_name, needed_steps

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
        sequences: clean token ids [S, L].
        maskable: bool [S, L], True at the N tokens to be generated (the same number in each row);
            None is all.
        steps: forward passes, if `tune` is given none.
        remasking: position policy. Confidence is that of the model's own best token, as in
            sampling at temperature 0.
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
        maskable: torch.Tensor | None = None,
        *,
        steps: int | None = None,
        remasking: str | ConfidencePolicy | OrderPolicy = "random",
        mask_token_id: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        name: str = "teacher-forced likelihood",
    ) -> None:
        self.policy = get_policy(remasking)
        self.data = check_data(model, sequences, maskable, mask_token_id)
        self.model, self.denoiser = model, as_denoiser(model)
        self.steps = None if steps is None else check_int("steps", steps, 1, example=_EXAMPLE)
        self.batch_size, self.seed, self.name = (
            check_int("batch_size", batch_size, 1),
            check_int("seed", seed, 0),
            name,
        )
        self.model_name = model_name(model)
        self.num_instances = len(self.data.tokens)

    @property
    def remasking(self) -> str:
        """Name of the position policy."""
        return self.policy.name

    @property
    def sampler(self) -> dict[str, Any]:
        """The position policy, for the Hub."""
        return {"remasking": self.remasking}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a resumed study must share."""
        told = {
            "remasking": self.remasking,
            "seed": self.seed,
            "model": self.model_name,
            "steps": self.steps,
        }
        # A digest recognises the same sequences without copying them into every study.
        texts = repr((self.data.tokens.tolist(), self.data.places.tolist()))
        return {**told, "sequences": hashlib.sha256(texts.encode()).hexdigest()[:16]}

    def plan_key(self, schedule: Schedule, steps: int | None) -> str | None:
        """The plan, unless the policy's counts are random."""
        count = needed_steps(steps, self.steps, _EXAMPLE)
        return (
            None
            if self.policy.random_counts
            else str(schedule.plan(self.data.num_tokens, count).tolist())
        )

    def __call__(
        self, schedule: Schedule, steps: int | None = None, instances: Sequence[int] | None = None
    ) -> Scores:
        """The log-likelihood per token of each sequence."""
        wanted = list(range(self.num_instances)) if instances is None else list(instances)
        count, values, passes = needed_steps(steps, self.steps, _EXAMPLE), [], 0
        for begin in range(0, len(wanted), self.batch_size):
            batch = torch.tensor(
                wanted[begin : begin + self.batch_size], device=self.data.tokens.device
            )
            truth, places = self.data.tokens[batch], self.data.places[batch]
            # The sampler's own loop runs, so the order is exactly that of generation.
            teacher = _Teacher(self.denoiser, truth, self.policy, self.data.mask_token_id)
            with evaluating(self.model):
                out = sample(
                    teacher,
                    truth.scatter(1, places, self.data.mask_token_id),
                    mask_token_id=self.data.mask_token_id,
                    schedule=schedule,
                    steps=count,
                    remasking="low_confidence"
                    if isinstance(self.policy, ConfidencePolicy)
                    else self.policy,
                    seed=[self.seed + index for index in batch.tolist()],
                )
            values += (teacher.total() / self.data.num_tokens).tolist()
            passes += out.nfe * len(batch)
        return Scores(values, {}, passes)


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

    def _where(self, tokens: torch.Tensor, rows: torch.Tensor) -> Where:
        """Where the positions lie, for policies that look at that."""
        # the first pass sees all masks
        if self.place is None:
            self.place = Where.whole(tokens, tokens == self.mask).flat()
        return replace(self.place, tokens=tokens).pick(rows)

    def total(self) -> torch.Tensor:
        """Log-likelihood of each row, float64 [B]."""
        return self.known.sum(1).cpu()
