"""Dream (arXiv 2508.15487): made from an autoregressive model, so logits predict the next token."""

from __future__ import annotations

import torch

from mdm_schedules.models.base import CacheSupport, ModelAdapter, released_code


class DreamAdapter(ModelAdapter):
    """Passes the attention mask as the string "full", or as a bool [B, 1, L, L] with positions."""

    name = "dream"
    shift = 1

    def cache_support(self) -> CacheSupport:
        """None: its own code is not asked for parts of a sequence."""
        return released_code()

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`."""
        if attention_mask is None:
            return self.model(tokens, "full", None).logits  # type: ignore[no-any-return]
        # padding attends to itself, because a softmax row that sees nothing is NaN
        seen = attention_mask[:, None, None, :] & attention_mask[:, None, :, None]
        seen = seen | torch.eye(
            attention_mask.shape[1], dtype=torch.bool, device=attention_mask.device
        )
        positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        return self.model(tokens, seen, positions).logits  # type: ignore[no-any-return]
