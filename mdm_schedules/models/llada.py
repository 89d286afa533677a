"""LLaDA and LLaDA-MoE (arXiv 2502.09992): bidirectional, logits in place, rotary positions."""

from __future__ import annotations

import torch

from mdm_schedules.models.base import ModelAdapter

MASK_TOKEN_ID = 126336  # of the released models, whose config leaves another model's default there


class LLaDAAdapter(ModelAdapter):
    """The model takes a two-dimensional attention mask, and its positions are relative."""

    name = "llada"

    @property
    def mask_token_id(self) -> int | None:
        """126336 where the vocabulary has it, else the config's."""
        known = (self.vocab_size or 0) > MASK_TOKEN_ID
        return MASK_TOKEN_ID if known else super().mask_token_id

    @property
    def max_length(self) -> int | None:
        """The name in its config for it, or that of transformers."""
        longest: int | None = getattr(self.plain_model.config, "max_sequence_length", None)
        return longest or super().max_length

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`."""
        mask = None if attention_mask is None else attention_mask.long()
        return self.model(input_ids=tokens, attention_mask=mask).logits  # type: ignore[no-any-return]
