"""Dream (arXiv 2508.15487): made from an autoregressive model, so logits speak of the next
token.
"""

from __future__ import annotations

from typing import Any

import torch

from mdm_schedules.integrations.models.base import ModelAdapter


class DreamAdapter(ModelAdapter):
    """The model takes the string "full", or a bool mask [B, 1, L, L] with positions."""

    name = "dream"
    shift = 1

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """By config.model_type only."""
        return False

    def forward(self, tokens: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`."""
        if own is None:
            return self.model(tokens, "full", None).logits  # type: ignore[no-any-return]
        # padding attends to itself, since a row of the softmax that sees nothing is NaN
        seen = own[:, None, None, :] & own[:, None, :, None]
        seen = seen | torch.eye(own.shape[1], dtype=torch.bool, device=own.device)
        positions = (own.long().cumsum(1) - 1).clamp(min=0)
        return self.model(tokens, seen, positions).logits  # type: ignore[no-any-return]
