"""What the serving engines share: settings from a file, and one step on a batch of blocks.

An engine runs the model and owns the loop; it asks which masks of a block a pass fills. A block of
W masks is filled in `steps` passes by the schedule's plan, as `generate` fills it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mdm_schedules.checks import check_int, check_real, did_you_mean, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.lookup import get_schedule
from mdm_schedules.sampling.commits import CommitRule, choose_commit
from mdm_schedules.sampling.draw import DrawOptions, TokenDraw
from mdm_schedules.sampling.policies import ConfidencePolicy, get_policy
from mdm_schedules.schedules import Linear, Schedule

#: what a file of settings may hold; the engine reads `block_size` itself
KEYS = ("schedule", "steps", "remasking", "commit", "threshold", "temperature", "seed")
ENGINE_KEYS = ("block_size",)


def _counts(rule: CommitRule) -> bool:
    """Whether a rule needs nothing but the scores of one pass, in falling order."""

    def own(name: str) -> bool:
        return getattr(type(rule), name, None) is not getattr(CommitRule, name, None)

    return own("count") and not own("select") and not own("watch")


@dataclass(frozen=True)
class BlockSettings:
    """How blocks are filled.

    Attributes:
        schedule: gives the plan.
        steps: passes that fill a block, 1 to its length.
        remasking: which masks come first, by what the model says of them.
        commit: fills more than the plan where the model is sure; None never does.
        temperature: of the draw, >= 0; 0 takes the most probable token.
        seed: of requests that bring none; None gives each request one of its own.
    """

    schedule: Schedule
    steps: int
    remasking: ConfidencePolicy
    commit: CommitRule | None = None
    temperature: float = 0.0
    seed: int | None = None

    @classmethod
    def read(cls, settings: Mapping[str, Any], block_length: int) -> BlockSettings:
        """Settings as a file holds them.

        Args:
            settings: schedule (by default linear), steps (by default one for each token), remasking
                (by default low_confidence), commit or threshold, temperature, seed.
            block_length: tokens per block.

        Raises:
            MDMError: a key or value that is not allowed, such as more steps than the block has
                tokens.
        """
        for key in settings:
            if key not in (*KEYS, *ENGINE_KEYS):
                raise InvalidValueError(
                    f"there is no setting {shown(key)}.{did_you_mean(str(key), KEYS)}"
                )
        steps = settings.get("steps")
        steps = block_length if steps is None else check_int("steps", steps, 1)
        if steps > block_length:
            raise InvalidValueError(
                f"steps must be at most the {block_length} tokens of a block, got {steps}: each "
                f"pass fills at least one; for example steps={block_length}"
            )
        remasking = get_policy(settings.get("remasking", "low_confidence"))
        if not isinstance(remasking, ConfidencePolicy):
            raise InvalidValueError(
                f"remasking={remasking.name!r} knows its order without the model, and an engine "
                "computes all logits; use low_confidence, margin or entropy"
            )
        commit = choose_commit(settings.get("commit"), settings.get("threshold"), None)
        if commit is not None:
            commit.check(remasking, 0.0)
            if not _counts(commit):
                raise InvalidValueError(
                    f"{commit.name} looks at more than the scores of a pass, which an engine does "
                    "not keep; use threshold or entropy_bound"
                )
        seed = settings.get("seed")
        return cls(
            schedule=get_schedule(settings.get("schedule", Linear())),
            steps=steps,
            remasking=remasking,
            commit=commit,
            temperature=check_real("temperature", settings.get("temperature", 0.0), 0),
            seed=None if seed is None else check_int("seed", seed, -(2**63), 2**63 - 1),
        )

    def plan(self, masks: torch.Tensor) -> torch.Tensor:
        """Tokens that each pass fills in blocks with `masks` [B] masks: LongTensor [B, steps]."""
        return self.schedule.plan(masks, self.steps)

    def draw(self, mask_token_id: int) -> TokenDraw:
        """What draws tokens; its buffers are reused from pass to pass."""
        return TokenDraw(DrawOptions(temperature=self.temperature), self.remasking, mask_token_id)

    def fill(
        self,
        draw: TokenDraw,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        masked: torch.Tensor,
        least: torch.Tensor,
        uniform: torch.Tensor | None,
    ) -> torch.Tensor:
        """The blocks after one pass.

        Args:
            draw: from `draw`.
            logits: [B * W, V].
            tokens: LongTensor [B, W], the blocks; only read.
            masked: bool [B, W], what is to be filled.
            least: LongTensor [B], tokens by the plan.
            uniform: float64 [B, W] in [0, 1), one number for each position; None at temperature 0.

        Returns:
            LongTensor [B, W].
        """
        index = masked.flatten().nonzero()[:, 0]
        if not isinstance(logits, torch.Tensor) or logits.shape[:-1] != masked.flatten().shape:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else shown(logits)
            raise InvalidTypeError(f"logits must be [{masked.numel()}, vocabulary], got {got}")
        chosen = None if uniform is None else uniform.flatten()[index]
        drawn, scores, _ = draw(logits, index, chosen, lambda start, stop: tokens)
        assert scores is not None  # every ConfidencePolicy scores
        new = tokens.masked_scatter(masked, drawn.to(tokens.dtype))
        score = torch.full(tokens.shape, -torch.inf, dtype=scores.dtype, device=tokens.device)
        # ties go to the left, as in `generate`
        score.masked_scatter_(masked, scores)
        ranked = torch.sort(score, stable=True, dim=1, descending=True)
        count = least.to(tokens.device)
        if self.commit is not None:
            count = torch.maximum(count, self.commit.count(ranked.values))
        place = torch.arange(tokens.shape[1], device=tokens.device)
        best = torch.zeros_like(masked).scatter_(1, ranked.indices, place < count[:, None])
        return torch.where(masked & best, new, tokens)
