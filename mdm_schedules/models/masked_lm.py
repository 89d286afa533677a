"""Any transformers model with a masked-LM head: BERT, RoBERTa, ModernBERT, ESM and their like."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models.base import CacheSupport, ModelAdapter, close_logits, unhooked
from mdm_schedules.models.cache.attention import (
    KINDS,
    attention_kind,
    can_hook,
    hooked,
    using,
)
from mdm_schedules.models.cache.store import KVStore
from mdm_schedules.models.cache.windows import Window
from mdm_schedules.models.wrappers import compiled, copies


class MaskedLMAdapter(ModelAdapter):
    """Calls the model as transformers does, with the attention mask.

    It also passes the true positions to models that accept positions.
    """

    name = "masked_lm"

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Accept a module whose class, or config, names a ForMaskedLM class."""
        architectures = getattr(getattr(model, "config", None), "architectures", None) or []
        names = [base.__name__ for base in type(model).__mro__]
        return hasattr(model, "forward") and any(
            name.endswith("ForMaskedLM") for name in [*names, *architectures]
        )

    @property
    def _embeddings(self) -> Any:
        return getattr(self.plain_model.base_model, "embeddings", None)

    @property
    def _position_offset(self) -> int:
        """The first position: padding_idx + 1 in RoBERTa and its descendants, else 0."""
        embeddings = self._embeddings
        # RoBERTa's embeddings count positions by themselves; this method is what they have in
        # common.
        counted = hasattr(embeddings, "create_position_ids_from_inputs_embeds")
        return int(embeddings.padding_idx) + 1 if counted and embeddings is not None else 0

    @property
    def max_length(self) -> int | None:
        """The size of the position table, less its reserved positions.

        Rotary positions need no table, so none of theirs are reserved.
        """
        kind = getattr(self.plain_model.config, "position_embedding_type", "absolute")
        reserved = self._position_offset if kind == "absolute" else 0
        longest = super().max_length
        return None if longest is None else longest - reserved

    def check_tokens(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor, mask_token_id: int
    ) -> None:
        """Refuse rows that hold only masks where ESM would divide by the share of other tokens."""
        embeddings = self._embeddings
        if (
            not getattr(embeddings, "token_dropout", False)
            or embeddings.mask_token_id != mask_token_id
        ):
            return
        if bool(((tokens == mask_token_id) | ~attention_mask).all(1).any()):
            raise InvalidValueError(
                f"{type(self.plain_model).__name__} divides by the share of unmasked tokens "
                "(token_dropout), so "
                "a row of nothing but masks (with cfg_scale: any prompt) gives NaN; keep the "
                "tokenizer's special "
                "tokens around the masks, or set model.base_model.embeddings.token_dropout = False"
            )

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`."""
        inputs: dict[str, Any] = {"input_ids": tokens}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.long()
        # RoBERTa treats its pad token as padding wherever it stands, so the positions are passed
        counted = attention_mask is not None or self._position_offset
        if counted and self._takes_positions:
            inputs["position_ids"] = self._positions(tokens, attention_mask)
        return self.model(**inputs).logits  # type: ignore[no-any-return]

    @property
    def _takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self.plain_model.forward).parameters

    def _positions(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        own = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        return (own.cumsum(1) - 1).clamp(min=0) + self._position_offset

    def cache_support(self) -> CacheSupport:
        """Approximate, where the attention can be hooked; a try finds that out."""
        model = self.plain_model
        if getattr(self._embeddings, "token_dropout", False):
            why = "scales its embeddings by the share of masks (token_dropout), which every pass"
            return CacheSupport(None, f"{why} changes")
        if compiled(self.model):
            return CacheSupport(None, "is compiled, which hides its attention")
        if copies(self.model):
            return CacheSupport(None, "computes on copies of itself (DataParallel)")
        kind = attention_kind(getattr(model, "config", None))
        if kind not in KINDS:
            return unhooked(kind)
        if not can_hook(model):
            return CacheSupport(
                None, "has attention that this version of transformers does not let others replace"
            )
        if not self._takes_positions:
            return CacheSupport(None, "takes no position_ids, so that no part of it runs alone")
        if not self._try_once("cache", self._try_cache):
            return CacheSupport(
                None, "has attention of its own, or answers otherwise for a part of the sequence"
            )
        return CacheSupport("approximate", "lets every token see the whole sequence")

    def _try_cache(self) -> bool:
        """Whether a window over unchanged tokens answers as the whole sequence, padded too."""
        tokens = self._four_tokens().repeat(2, 2)
        tokens[:, 4] = tokens[0, 0] if self.mask_token_id is None else self.mask_token_id
        own = torch.ones_like(tokens, dtype=torch.bool)
        own[0, :2] = False
        plain, store = self.forward(tokens, own), KVStore(tokens.shape[1])
        answers = []
        with self.caching():
            for window in (Window(0, 8, 8, True, False), Window(3, 6, 8, False, True)):
                store.begin(window)
                try:
                    answers.append(self.forward_window(tokens, own, window, store))
                except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):
                    return False
                if not store.layers:
                    return False
        full, part = answers
        return close_logits(full[:, 2:], plain[:, 2:]) and close_logits(part, plain[:, 3:6])

    def caching(self) -> AbstractContextManager[None]:
        """See `ModelAdapter.caching`."""
        return hooked(self.plain_model)

    def forward_window(
        self,
        tokens: torch.Tensor,
        attention_mask: torch.Tensor | None,
        window: Window,
        store: KVStore,
    ) -> torch.Tensor:
        """See `ModelAdapter.forward_window`; masks are those of the last full pass."""
        with using(store):
            if window.full:
                return self.forward(tokens, attention_mask)
            columns = slice(window.start, window.stop)
            positions = self._positions(tokens, attention_mask)[:, columns]
            return self.model(  # type: ignore[no-any-return]
                input_ids=tokens[:, columns], position_ids=positions
            ).logits
