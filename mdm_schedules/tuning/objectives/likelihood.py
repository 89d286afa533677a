"""Likelihood of the model's outputs under a second model, with diversity to reveal collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.sampling import GenerationOutput
from mdm_schedules.tuning.objectives.generation import GenerationObjective

Judge = Callable[[torch.Tensor, int], Any]


def diversity(sequences: torch.Tensor) -> dict[str, float]:
    """Diversity of sequences LongTensor [B, L] of one length.

    Returns:
        distinct: share of different sequences, in (0, 1].
        hamming: mean share of positions at which two sequences differ, in [0, 1]; 0 for a single
            sequence.
        unigram_entropy: entropy of all tokens, in nats.
    """
    rows, length = sequences.shape
    counts = torch.unique(sequences, return_counts=True)[1].double()
    equal = 0.0
    # Count agreeing pairs by token, without a table [B, B, L].
    for column in sequences.t():
        same = torch.unique(column, return_counts=True)[1].double()
        equal += float((same * (same - 1)).sum())
    pairs = rows * (rows - 1) * length
    return {
        "distinct": len(torch.unique(sequences, dim=0)) / rows,
        "hamming": 1 - equal / pairs if pairs else 0.0,
        "unigram_entropy": float(torch.special.entr(counts / counts.sum()).sum()),
    }


class LikelihoodObjective(GenerationObjective):
    """Mean log-likelihood per written token under a judge, in nats, with diversity beside it.

    Collapse (a model that repeats one likely text) raises the likelihood, so always read it
    together with distinct, hamming and unigram_entropy. They cover all texts of one call, which is
    a whole round of `tune`.

    Args:
        judge: a transformers causal language model with the same token ids; or a function
            (sequences LongTensor [B, L], prompt_length) -> log-likelihood of the answer in nats,
            [B].
        prompts: text or token ids each. One prompt may be repeated: every instance has its own
            seed.
        **options: options of `GenerationObjective`.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, no `max_new_tokens`, or a prompt
            that contains masks.
    """

    asked_together = True  # diversity describes many texts at once

    def __init__(self, model: Any, judge: Any, prompts: Sequence[Any], **options: Any) -> None:
        if not callable(judge):
            raise InvalidTypeError(
                "the judge must be a causal language model or a function (sequences, "
                "prompt_length) -> "
                f"log-likelihoods, got {shown(judge)}"
            )
        options = {"name": "judged likelihood"} | options
        if not options.get("max_new_tokens"):
            raise InvalidValueError(
                "a judge scores what follows a prompt; give max_new_tokens=64, say"
            )
        super().__init__(
            model, [{"prompt": prompt} for prompt in prompts], lambda output, answer: 0.0, **options
        )
        if any(self.mask_token_id in row for row in self.prompts):
            raise InvalidValueError(
                "a judge cannot score masks that are filled inside a prompt; leave them out"
            )
        self.judged_by: Judge = causal_judge(judge) if isinstance(judge, torch.nn.Module) else judge
        self.metric_name = "log-likelihood per token"

    def judge(self, out: GenerationOutput, batch: Sequence[int]) -> list[float]:
        """See `GenerationObjective.judge`."""
        written, values = out.sequences.shape[1] - out.prompt_length, [0.0] * len(batch)
        lengths = [len(self.prompts[index]) for index in batch]
        # One call per prompt length, since a judge of the user may not know of padding.
        for length in sorted(set(lengths)):
            rows = [row for row, other in enumerate(lengths) if other == length]
            told = self.judged_by(out.sequences[rows, out.prompt_length - length :], length)
            for row, value in zip(
                rows, torch.as_tensor(told, dtype=torch.float64).reshape(-1).tolist(), strict=True
            ):
                # Per token, so that answers of any length compare.
                values[row] = value / written
        return values

    def measure(self, written: list[torch.Tensor]) -> dict[str, float]:
        """See `GenerationObjective.measure`."""
        return diversity(torch.stack(written))


def causal_judge(model: torch.nn.Module) -> Judge:
    """A judge that scores the answer with a transformers causal language model."""

    @torch.no_grad()
    def judge(sequences: torch.Tensor, prompt_length: int) -> torch.Tensor:
        # A causal model gives the first token of a sequence no probability.
        first = max(1, prompt_length)
        device = next(model.parameters()).device
        # The logits at position i predict token i + 1.
        logits = model(input_ids=sequences.to(device)).logits[:, first - 1 : -1].double()
        wanted = sequences[:, first:].to(device)
        return torch.log_softmax(logits, -1).gather(-1, wanted[..., None])[..., 0].sum(1).cpu()

    return judge
