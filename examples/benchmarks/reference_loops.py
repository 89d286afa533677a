"""The sampling loops that models ship with, rewritten from their papers for comparison.

The loops keep the costs of the originals, since the benchmarks time them: softmax, noise and argmax
over all positions and the whole vocabulary in each pass, float64 Gumbel noise, and one top-k per
row. `tests/sampling/test_parity.py` asserts that `mdm_schedules.generate` writes the same
tokens at temperature 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Model = Callable[[torch.Tensor], torch.Tensor]  # tokens [B, L] -> logits [B, L, V]


def even_plan(tokens: int, steps: int) -> list[int]:
    """LLaDA's plan: equal shares; the first steps take one token of the remainder each."""
    return [tokens // steps + (step < tokens % steps) for step in range(steps)]


def dllm_plan(tokens: int, steps: int, alpha: Callable[[float], float]) -> list[int]:
    """dLLM's plan: in each step the rounded share of the remaining tokens, by alpha in noise time.

    Empty steps are dropped.
    """
    plan, left = [], tokens
    for step in range(steps, 0, -1):
        share = 1 - (1 - alpha((step - 1) / steps)) / (1 - alpha(step / steps))
        plan.append(min(left, int(torch.tensor(left * share, dtype=torch.float64).round())))
        left -= plan[-1]
    return [count for count in plan if count]


def dream_plan(tokens: int, steps: int, eps: float = 1e-3) -> list[int]:
    """Dream's plan: in each step the share 1 - s / t of the remaining tokens, rounded down.

    The time grid ends at eps; the last step reveals the rest.
    """
    grid = torch.linspace(1, eps, steps + 1)
    plan, left = [], tokens
    for step in range(steps):
        last = step == steps - 1
        plan.append(left if last else int(left * (1 - grid[step + 1] / grid[step])))
        left -= plan[-1]
    return plan


def llada_generate(
    model: Model,
    prompt: torch.Tensor,
    *,
    mask_id: int,
    steps: int,
    new_tokens: int,
    block_length: int,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    plan: list[int] | None = None,
) -> torch.Tensor:
    """Low-confidence remasking in blocks (arXiv 2502.09992).

    With a `plan` per block it is also dLLM's MDLM sampler.
    """
    x = torch.nn.functional.pad(prompt, (0, new_tokens), value=mask_id)
    given = x != mask_id
    blocks = new_tokens // block_length
    for block in range(blocks):
        end = prompt.shape[1] + (block + 1) * block_length
        for count in plan or even_plan(block_length, steps // blocks):
            masked = x == mask_id
            if cfg_scale:
                blind = torch.where(given, mask_id, x)
                logits, unconditional = model(torch.cat([x, blind])).chunk(2)
                logits = unconditional + (cfg_scale + 1) * (logits - unconditional)
            else:
                logits = model(x)
            noisy = logits
            if temperature:
                noise = torch.rand_like(logits, dtype=torch.float64)
                noisy = logits.double().exp() / (-noise.log()) ** temperature
            tokens = noisy.argmax(-1)
            confidence = logits.softmax(-1).gather(-1, tokens[..., None])[..., 0]
            confidence[:, end:] = -torch.inf
            confidence = torch.where(masked, confidence, -torch.inf)
            tokens = torch.where(masked, tokens, x)
            for row in range(len(x)):
                chosen = confidence[row].topk(count).indices
                x[row, chosen] = tokens[row, chosen]
    return x


def dream_generate(
    model: Model, prompt: torch.Tensor, *, mask_id: int, steps: int, new_tokens: int, algorithm: str
) -> torch.Tensor:
    """Dream's loop at temperature 0 (arXiv 2508.15487): logits shifted by one, one block.

    `algorithm` is maskgit_plus, topk_margin or entropy.
    """
    x = torch.nn.functional.pad(prompt, (0, new_tokens), value=mask_id)
    for count in dream_plan(new_tokens, steps):
        masked = x == mask_id
        logits = model(x)
        # the logits at a position predict the next token; the first token has only its own
        logits = torch.cat([logits[:, :1], logits[:, :-1]], 1)
        probs = logits[masked].softmax(-1)
        best, tokens = probs.max(-1)
        if algorithm == "topk_margin":
            ordered = probs.sort(-1, descending=True).values
            best = ordered[:, 0] - ordered[:, 1]
        elif algorithm == "entropy":
            best = (probs * (probs + 1e-10).log()).sum(-1)
        confidence = torch.full(x.shape, -torch.inf)
        confidence[masked] = best
        answer = x.clone()
        answer[masked] = tokens
        chosen = confidence.topk(count, dim=1).indices
        x = x.scatter(1, chosen, answer.gather(1, chosen))
    return x
