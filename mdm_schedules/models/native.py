"""Native models (transformers' own architectures as masked diffusion models); no workarounds."""

from __future__ import annotations

import torch

from mdm_schedules.models.base import CacheSupport, ModelAdapter, unhooked
from mdm_schedules.models.cache.attention import KINDS, attention_kind
from mdm_schedules.models.cache.store import KVStore
from mdm_schedules.models.cache.windows import Window
from mdm_schedules.models.wrappers import copies


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

    def cache_support(self) -> CacheSupport:
        """Exact for attention by blocks, else approximate."""
        kind = attention_kind(self.plain_model.config)
        if kind not in KINDS:
            return unhooked(kind)
        if copies(self.model):
            return CacheSupport(None, "computes on copies of itself (DataParallel)")
        if self.block_length is None:
            return CacheSupport(
                "approximate", "lets every token see the whole sequence (block_length is None)"
            )
        return CacheSupport(
            "exact", f"attends by blocks of {self.block_length}, for which cache='exact' is free"
        )

    def forward_window(
        self,
        tokens: torch.Tensor,
        attention_mask: torch.Tensor | None,
        window: Window,
        store: KVStore,
    ) -> torch.Tensor:
        """See `ModelAdapter.forward_window`; attention takes `store` as transformers' caches."""
        columns = slice(window.start, window.stop)
        if attention_mask is None:
            positions = torch.arange(window.keys, device=tokens.device)[None]
        else:
            attention_mask = attention_mask[:, : window.keys]
            positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        seen = None if attention_mask is None else attention_mask[:, None, None, :]
        # a single block sees itself and all before it, so that it needs no mask
        if self.block_length is not None and not window.one_block:
            block = positions // self.block_length
            earlier = block[:, None, columns, None] >= block[:, None, None, :]
            seen = earlier if seen is None else seen & earlier
        return self.model(  # type: ignore[no-any-return]
            input_ids=tokens[:, columns],
            attention_mask={"full_attention": seen},
            position_ids=positions[:, columns],
            past_key_values=store,
        ).logits
