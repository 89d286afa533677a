"""LLaDA and LLaDA-MoE (arXiv 2502.09992): bidirectional, logits in place, rotary positions."""

from __future__ import annotations

import torch

from mdm_schedules.models.base import CacheSupport, ModelAdapter, released_code

# the released models, recognised by vocabulary size: LLaDA and MMaDA, LLaDA-MoE
MASK_TOKEN_IDS: dict[int | None, int] = {126464: 126336, 134656: 126336, 157184: 156895}
UNSET = 50256  # another model's default, which the released code leaves in the config


class LLaDAAdapter(ModelAdapter):
    """Passes a two-dimensional attention mask, and no positions, since the model's are relative."""

    name = "llada"

    @property
    def mask_token_id(self) -> int | None:
        """The config's id, if set, else the known id of a released model."""
        configured = super().mask_token_id
        if configured is not None and configured != UNSET:
            return configured
        return MASK_TOKEN_IDS.get(self.vocab_size)

    @property
    def max_length(self) -> int | None:
        """The config's `max_sequence_length`, else the length under transformers' name."""
        longest: int | None = getattr(self.plain_model.config, "max_sequence_length", None)
        return longest or super().max_length

    def cache_support(self) -> CacheSupport:
        """None: its own code takes no cache."""
        return released_code()

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`."""
        mask = None if attention_mask is None else attention_mask.long()
        return self.model(input_ids=tokens, attention_mask=mask).logits  # type: ignore[no-any-return]
