"""Any function or module from tokens [B, L] to logits [B, L, V], or to an output with `.logits`."""

from __future__ import annotations

from typing import Any

import torch

from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.models.base import CacheSupport, ModelAdapter


class FunctionAdapter(ModelAdapter):
    """Asks a function for all logits.

    Nothing else is known about a function, so `mask_token_id` has to be given.
    """

    name = "callable"

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Accept a callable that is no module.

        A module that is no masked LM has to be requested by adapter="callable".
        """
        return callable(model) and not isinstance(model, torch.nn.Module | type)

    @property
    def head(self) -> torch.nn.Module | None:
        """None: a function's head is unknown."""
        return None

    @property
    def vocab_size(self) -> int | None:
        """None: a function's vocabulary is unknown."""
        return None

    @property
    def max_length(self) -> int | None:
        """None: a function's longest input is unknown."""
        return None

    def check_padding(self) -> None:
        """Refuse padding, because a function of tokens alone cannot see it."""
        raise InvalidValueError(
            "a function of tokens alone cannot tell padding; generate for prompts of equal length "
            "at a time"
        )

    def cache_support(self) -> CacheSupport:
        """None: nothing is known of a function's attention."""
        return CacheSupport(None, "is called as a function of whole sequences")

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`."""
        answer = self.model(tokens.clone())  # which it may write into
        logits = getattr(answer, "logits", answer)
        if (
            not isinstance(logits, torch.Tensor)
            or logits.shape[:2] != tokens.shape
            or logits.ndim != 3
            or logits.layout != torch.strided
        ):
            given: Any = type(logits).__name__
            if isinstance(logits, torch.Tensor):
                dense = logits.layout == torch.strided
                given = list(logits.shape) if dense else str(logits.layout)
            raise InvalidTypeError(
                f"the model must return logits {[*tokens.shape, 'V']}, got {given}"
            )
        return logits
