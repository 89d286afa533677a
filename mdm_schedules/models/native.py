"""Native models (transformers' own architectures as masked diffusion models); no workarounds."""

from __future__ import annotations

import torch

from mdm_schedules.models.base import ModelAdapter


class NativeAdapter(ModelAdapter):
    """Passes a 2-D mask and true positions; block length and shift come from the config."""

    name = "native"

    @property
    def shift(self) -> int:  # type: ignore[override]
        """The config's `logits_shift`."""
        return int(self.plain_model.config.logits_shift or 0)

    @property
    def block_length(self) -> int | None:
        """The config's `block_length`."""
        length: int | None = self.plain_model.config.block_length
        return length

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`."""
        if attention_mask is None:
            return self.model(input_ids=tokens).logits  # type: ignore[no-any-return]
        positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        return self.model(  # type: ignore[no-any-return]
            input_ids=tokens, attention_mask=attention_mask.long(), position_ids=positions
        ).logits
