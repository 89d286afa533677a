"""Any transformers model with a masked-LM head: BERT, RoBERTa, ModernBERT, ESM and their like."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models.base import ModelAdapter


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
        return None if super().max_length is None else int(super().max_length or 0) - reserved

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
        offset = self._position_offset
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.long()
        # RoBERTa treats its pad token as padding wherever it stands, so the positions are passed
        elif offset:
            attention_mask = torch.ones_like(tokens, dtype=torch.bool)
        if (
            attention_mask is not None
            and "position_ids" in inspect.signature(self.plain_model.forward).parameters
        ):
            inputs["position_ids"] = (attention_mask.long().cumsum(1) - 1).clamp(min=0) + offset
        return self.model(**inputs).logits  # type: ignore[no-any-return]
