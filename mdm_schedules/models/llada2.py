"""LLaDA2 (arXiv 2512.15745): block diffusion; a block sees itself and the earlier blocks."""

from __future__ import annotations

import torch

from mdm_schedules.models.base import CacheSupport, ModelAdapter, released_code

BLOCK_LENGTH = 32
MASK_TOKEN_ID = 156895


class LLaDA2Adapter(ModelAdapter):
    """Passes the block-causal mask [B, 1, L, L] and positions.

    Blocks are counted from the start of the sequence.
    """

    name = "llada2"

    @property
    def mask_token_id(self) -> int | None:
        """The config's id, else that of the released models."""
        given = super().mask_token_id
        known = given is None and self.vocab_size is not None and self.vocab_size > MASK_TOKEN_ID
        return MASK_TOKEN_ID if known else given

    @property
    def block_length(self) -> int:
        """The config's `block_length`, else 32, with which the released models were trained."""
        return int(getattr(self.plain_model.config, "block_length", None) or BLOCK_LENGTH)

    def cache_support(self) -> CacheSupport:
        """None: its own code is not asked for parts of a sequence."""
        return released_code()

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`."""
        real = (
            torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask
        )
        positions = (real.long().cumsum(1) - 1).clamp(min=0)
        block = positions // self.block_length
        seen = (block[:, None, :, None] >= block[:, None, None, :]) & real[:, None, None, :]
        # padding attends to itself, because a softmax row that sees nothing is NaN
        seen = seen | torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        dtype = self.plain_model.get_input_embeddings().weight.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(
            ~seen, torch.finfo(dtype).min
        )
        return self.model(tokens, attention_mask=mask, position_ids=positions).logits  # type: ignore[no-any-return]
