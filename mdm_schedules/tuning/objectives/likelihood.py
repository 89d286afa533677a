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

    Masks inside a prompt are filled, and the text is judged from the first of them on: what follows
    a mask in the prompt is more or less likely by what was written there. The sum is divided by
    the number of written tokens.

    Args:
        judge: a transformers causal language model with the same token ids; or a function
            (sequences LongTensor [B, L], prompt_length) -> log-likelihood in nats of what follows
            the prompt, [B].
        prompts: text or token ids each. One prompt may be repeated: every instance has its own
            seed.
        **options: options of `GenerationObjective`.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, or a prompt without masks where no
            `max_new_tokens` is given.
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
        super().__init__(
            model, [{"prompt": prompt} for prompt in prompts], lambda output, answer: 0.0, **options
        )
        mask, new = self.mask_token_id, options.get("max_new_tokens") or 0
        if not new and not all(mask in row for row in self.prompts):
            raise InvalidValueError(
                "a judge scores what is written, at masks in a prompt or after it; give "
                "max_new_tokens=64, say"
            )
        # Of each prompt: the tokens before what is written first, and the places written inside it.
        self._before = [row.index(mask) if mask in row else len(row) for row in self.prompts]
        self._inside = [
            [place for place, token in enumerate(row) if token == mask] for row in self.prompts
        ]
        self.judged_by: Judge = causal_judge(judge) if isinstance(judge, torch.nn.Module) else judge
        self.metric_name = "log-likelihood per token"

    def judge(self, out: GenerationOutput, batch: Sequence[int]) -> list[float]:
        """See `GenerationObjective.judge`."""
        values = [0.0] * len(batch)
        new = out.sequences.shape[1] - out.prompt_length
        forms = [(len(self.prompts[index]), self._before[index]) for index in batch]
        # One call per form of prompt, since a judge of the user may not know of padding.
        for form in sorted(set(forms)):
            rows = [row for row, other in enumerate(forms) if other == form]
            length, before = form
            told = self.judged_by(out.sequences[rows, out.prompt_length - length :], before)
            scores = torch.as_tensor(told, dtype=torch.float64).reshape(-1).tolist()
            for row, value in zip(rows, scores, strict=True):
                # Per token, so that answers of any length compare.
                values[row] = value / (len(self._inside[batch[row]]) + new)
        return values

    def answers(self, out: GenerationOutput, batch: Sequence[int]) -> list[torch.Tensor]:
        """The tokens that were written into each prompt and after it."""
        written, sequences = [], out.sequences.cpu()
        for row, index in zip(sequences, batch, strict=True):
            begin = out.prompt_length - len(self.prompts[index])
            inside = [begin + place for place in self._inside[index]]
            written.append(torch.cat([row[inside], row[out.prompt_length :]]))
        return written

    def measure(self, written: list[torch.Tensor]) -> dict[str, float]:
        """See `GenerationObjective.measure`; texts are compared with others of their length."""
        sizes = sorted({len(row) for row in written})
        groups = [torch.stack([row for row in written if len(row) == size]) for size in sizes]
        told = [diversity(group) for group in groups]
        return {
            name: sum(len(group) * one[name] for group, one in zip(groups, told, strict=True))
            / len(written)
            for name in told[0]
        }


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
