"""Any transformers model with a masked-LM head: BERT, RoBERTa, ModernBERT, ESM and their like."""

from __future__ import annotations

import inspect
import threading
import weakref
from typing import Any

import torch
from mdm_schedules.integrations.models.base import ModelAdapter

from mdm_schedules.errors import InvalidValueError

_row_heads: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


class MaskedLMAdapter(ModelAdapter):
    """Calls the model as transformers does; asks its head for the wanted rows only where that gives the same logits."""

    name = "masked_lm"

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """A module whose class, or config, says ForMaskedLM."""
        architectures = getattr(getattr(model, "config", None), "architectures", None) or []
        names = [base.__name__ for base in type(model).__mro__]
        module = getattr(model, "_orig_mod", None)  # torch.compile wraps the model
        names += [] if module is None else [base.__name__ for base in type(module).__mro__]
        return hasattr(model, "forward") and any(name.endswith("ForMaskedLM") for name in [*names, *architectures])

    @property
    def _position_offset(self) -> int:
        """RoBERTa and its descendants count positions from padding_idx + 1."""
        embeddings = getattr(self.model.base_model, "embeddings", None)
        counted = hasattr(embeddings, "create_position_ids_from_inputs_embeds")
        return int(embeddings.padding_idx) + 1 if counted and embeddings is not None else 0

    @property
    def max_length(self) -> int | None:
        """Positions that the embedding table has, less those that are reserved."""
        return None if super().max_length is None else int(super().max_length or 0) - self._position_offset

    def logits(
        self, tokens: torch.Tensor, rows: torch.Tensor, own: torch.Tensor | None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """See `ModelAdapter.logits`."""
        if self._head_takes_rows:
            return self._forward(tokens, own, rows)[0]
        return self._forward(tokens, own).flatten(0, 1), rows

    def _forward(
        self, tokens: torch.Tensor, own: torch.Tensor | None, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [B, L, V], or [1, R, V] of the wanted rows."""
        inputs: dict[str, Any] = {"input_ids": tokens}
        if own is not None:
            inputs["attention_mask"] = own.long()
            if "position_ids" in inspect.signature(self.model.forward).parameters:
                inputs["position_ids"] = (own.long().cumsum(1) - 1).clamp(min=0) + self._position_offset
            elif not bool(own[:, 0].all()):
                raise InvalidValueError(
                    f"{type(self.model).__name__} takes no position_ids, so prompts padded on the left would stand at "
                    "wrong positions; generate for prompts of equal length at a time, without padding"
                )
        if rows is None:
            return self.model(**inputs).logits  # type: ignore[no-any-return]
        caller = threading.get_ident()

        def gather(module: Any, args: Any, output: Any) -> Any:
            if threading.get_ident() != caller:
                return None
            hidden = output[0].flatten(0, 1)[rows].unsqueeze(0)
            if isinstance(output, tuple):
                return (hidden, *output[1:])
            output["last_hidden_state"] = hidden
            return output

        # the head then runs on what the base model returns: the wanted rows
        hook = self.model.base_model.register_forward_hook(gather)
        try:
            return self.model(**inputs).logits  # type: ignore[no-any-return]
        finally:
            hook.remove()

    @property
    def _head_takes_rows(self) -> bool:
        """Whether logits of gathered rows equal the gathered logits; tried once per model on four tokens."""
        if self.model not in _row_heads:
            tokens = torch.arange(4, device=self.device).remainder(self.vocab_size or 1)[None]
            rows = torch.tensor([3, 1], device=self.device)
            full = self._forward(tokens, None)
            try:
                some = self._forward(tokens, None, rows)
                wide = full.dtype in (torch.float32, torch.float64)
                same = some.shape == (1, 2, full.shape[-1])
                same = same and torch.allclose(
                    some[0], full[0, rows], rtol=1e-3 if wide else 5e-2, atol=1e-4 if wide else 5e-2
                )
            except (TypeError, ValueError, RuntimeError, AttributeError, KeyError):
                same = False  # a head that wants the whole sequence: full logits are right, only slower
            _row_heads[self.model] = same
        return _row_heads[self.model]
