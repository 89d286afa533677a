"""What a run of the sampler returns, and what it tells a callback after each step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class StepInfo:
    """The state after one forward pass.

    Attributes:
        step: passes done so far, from 1.
        total: passes planned.
        tokens: LongTensor [B, L], a copy; masked positions hold the mask token.
        revealed: bool [B, L], the positions that this pass revealed.
    """

    step: int
    total: int
    tokens: torch.Tensor
    revealed: torch.Tensor


@dataclass(frozen=True)
class GenerationOutput:
    """The finished sequences and what they cost.

    Attributes:
        sequences: LongTensor [B, L], the prompt and the answer; holds no mask token that was to be
            filled.
        nfe: forward passes of the model.
        nfe_per_row: LongTensor [B], passes in which the row revealed a token.
        plan: LongTensor [B, nfe], tokens that each pass revealed, less those it masked again.
        seeds: the seed that each row drew with. Given as `seed`, the list repeats the run, and a
            row's own repeats that row alone.
        prompt_length: columns of `sequences` that are the prompt, so that `sequences[:,
            prompt_length:]` is the answer.
        history: token states [B, L] after each pass, if asked for.
    """

    sequences: torch.Tensor
    nfe: int
    nfe_per_row: torch.Tensor
    plan: torch.Tensor
    seeds: list[int]
    prompt_length: int = 0
    history: list[torch.Tensor] = field(default_factory=list)
