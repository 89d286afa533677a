"""Likelihood of what a model writes under a second model, with diversity beside it, since collapse raises it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mdm_schedules.errors import InvalidTypeError, shown
from mdm_schedules.sampling import GenerationOutput
from mdm_schedules.tuning.generated import GenerationObjective

Judge = Callable[[torch.Tensor, int], Any]


def diversity(sequences: torch.Tensor) -> dict[str, float]:
    """How much sequences LongTensor [B, L] of one length differ.

    Returns:
        distinct: share of different sequences, in (0, 1].
        hamming: mean share of positions at which two of them differ, in [0, 1]; 0 for a single one.
        unigram_entropy: of the tokens of all of them, in nats.
    """
    rows, length = sequences.shape
    counts = torch.unique(sequences, return_counts=True)[1].double()
    equal = 0.0
    for column in sequences.t():  # pairs that agree, without a [B, B, L] table
        same = torch.unique(column, return_counts=True)[1].double()
        equal += float((same * (same - 1)).sum())
    pairs = rows * (rows - 1) * length
    return {
        "distinct": len(torch.unique(sequences, dim=0)) / rows,
        "hamming": 1 - equal / pairs if pairs else 0.0,
        "unigram_entropy": float(torch.special.entr(counts / counts.sum()).sum()),
    }


class LikelihoodObjective(GenerationObjective):
    """Mean log-likelihood per written token under a judge, in nats; distinct, hamming and unigram_entropy beside it.

    A likelihood alone is raised by collapse (a model that repeats one likely text), so never read it without them.

    Args:
        judge: a transformers causal language model with the same token ids; or a function (sequences LongTensor [B, L],
            prompt_length) -> log-likelihood of the answer in nats, [B].
        prompts: text or token ids each; the same one many times is fine, every instance has its own seed.
        **options: of `GenerationObjective`.
    """

    def __init__(self, model: Any, judge: Any, prompts: Sequence[Any], **options: Any) -> None:
        if not callable(judge):
            raise InvalidTypeError(
                "the judge must be a causal language model or a function (sequences, prompt_length) -> "
                f"log-likelihoods, got {shown(judge)}"
            )
        options = {"name": "judged likelihood"} | options
        super().__init__(model, [{"prompt": prompt} for prompt in prompts], lambda output, answer: 0.0, **options)
        self.judged_by: Judge = causal_judge(judge) if isinstance(judge, torch.nn.Module) else judge
        self.metric_name = "log-likelihood per token"

    def judge(self, out: GenerationOutput, batch: Sequence[int]) -> list[float]:
        """See `GenerationObjective.judge`."""
        written = max(1, out.sequences.shape[1] - out.prompt_length)
        values = torch.as_tensor(self.judged_by(out.sequences, out.prompt_length), dtype=torch.float64).reshape(-1)
        return (values / written).tolist()  # type: ignore[no-any-return]

    def measure(self, out: GenerationOutput) -> dict[str, float]:
        """See `GenerationObjective.measure`."""
        return diversity(out.sequences[:, out.prompt_length :])


def causal_judge(model: torch.nn.Module) -> Judge:
    """The log-likelihood of what follows the prompt, by a transformers causal language model."""

    @torch.no_grad()
    def judge(sequences: torch.Tensor, prompt_length: int) -> torch.Tensor:
        first = max(1, prompt_length)  # nothing tells the probability of a first token
        device = next(model.parameters()).device
        logits = model(input_ids=sequences.to(device)).logits[:, first - 1 : -1].double()
        wanted = sequences[:, first:].to(device)
        return torch.log_softmax(logits, -1).gather(-1, wanted[..., None])[..., 0].sum(1).cpu()

    return judge
