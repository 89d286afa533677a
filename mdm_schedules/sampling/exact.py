"""The draw as one would write it down: whole rows, float64, no buffers; slow, and easy to check.

No run uses it. It says what `draw.py` and `fast.py` must do, and tests/sampling/test_exact.py holds
them to it.
"""

from __future__ import annotations

import torch

from mdm_schedules.sampling.draw import DrawOptions
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy
from mdm_schedules.sampling.rows import wide
from mdm_schedules.sampling.where import Where


def draw_exactly(
    logits_RV: torch.Tensor,
    options: DrawOptions,
    policy: ConfidencePolicy | OrderPolicy,
    mask_token_id: int,
    uniform_R: torch.Tensor | None = None,
    input_ids_RL: torch.Tensor | None = None,
    where: Where | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """One token and one score per row of logits; arguments and answers are those of `TokenDraw`."""
    # 1. Suppressed tokens, and what a processor removes, are no part of any probability.
    suppressed = torch.tensor(options.suppress_tokens, dtype=torch.long)
    scores_RV = logits_RV.double().index_fill(1, suppressed, -torch.inf)
    if options.logits_processor is not None:
        assert input_ids_RL is not None, "a logits processor reads the sequences"
        scores_RV = options.logits_processor(input_ids_RL, scores_RV)
        scores_RV = scores_RV.index_fill(1, suppressed, -torch.inf)

    # 2. The mask token counts in the probabilities that a policy reads, but is never drawn.
    allowed_RV = scores_RV.index_fill(1, torch.tensor([mask_token_id]), -torch.inf)
    best_R = allowed_RV.amax(1)
    usable_R = (scores_RV[:, mask_token_id] < torch.inf) & best_R.isfinite()

    # 3. The token: the first of the best, or the first whose running sum is above u times the sum.
    if uniform_R is None:
        tokens_R = allowed_RV.argmax(1)
    else:
        running_RV = filtered(allowed_RV - best_R[:, None], options).cumsum(1)
        target_R = uniform_R * running_RV[:, -1]
        tokens_R = torch.searchsorted(running_RV, target_R[:, None], right=True)[:, 0]
        tokens_R = tokens_R.clamp(max=logits_RV.shape[1] - 1)  # of unusable rows

    # 4. Its score, before temperature and filters.
    if isinstance(policy, OrderPolicy):
        return tokens_R, None, usable_R
    if not policy.token_only:
        return tokens_R, policy.score_at(scores_RV.softmax(1), tokens_R, where), usable_R  # type: ignore[arg-type]
    # a probability too small for the dtype is replaced by its logarithm
    log_R = scores_RV.log_softmax(1).gather(1, tokens_R[:, None])[:, 0]
    small_R = log_R.exp() < torch.finfo(wide(logits_RV.dtype)).tiny
    score_R = policy.token_score(torch.where(small_R, log_R, log_R.exp()), tokens_R, where)  # type: ignore[arg-type]
    return tokens_R, score_R, usable_R


def filtered(scores_RV: torch.Tensor, options: DrawOptions) -> torch.Tensor:
    """Probabilities after temperature, top_k and top_p; of equal tokens all stay or none."""
    # temperature: 1 keeps the model's probabilities, less sharpens them
    scores_RV = scores_RV / options.temperature
    # top_k: what is below the k-th stays out
    if options.top_k and options.top_k < scores_RV.shape[1]:
        least_R = scores_RV.sort(1, descending=True).values[:, options.top_k - 1]
        scores_RV = scores_RV.masked_fill(scores_RV < least_R[:, None], -torch.inf)
    probs_RV = scores_RV.softmax(1)
    if options.top_p is not None:
        # top_p: a token stays while those above it have less than top_p
        ordered_RV = probs_RV.sort(1, descending=True).values
        above_RV = ordered_RV.cumsum(1) - ordered_RV
        least_R = ordered_RV.where(above_RV < options.top_p, 1.0).amin(1)
        probs_RV = probs_RV.masked_fill(probs_RV < least_R[:, None], 0.0)
    return probs_RV
