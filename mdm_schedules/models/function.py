"""Any function or module from tokens [B, L] to logits [B, L, V], or to an output that has
`.logits`.
"""

from __future__ import annotations

from typing import Any

import torch

from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.models.base import ModelAdapter


class FunctionAdapter(ModelAdapter):
    """Asks for all logits; of a function nothing else is known, so `mask_token_id` has to be
    given.
    """

    name = "callable"

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """A callable that is no module; modules that are no masked LM must be asked for by
        adapter="callable".
        """
        return callable(model) and not isinstance(model, torch.nn.Module | type)

    @property
    def head(self) -> torch.nn.Module | None:
        """Unknown."""
        return None

    @property
    def vocab_size(self) -> int | None:
        """Unknown."""
        return None

    @property
    def max_length(self) -> int | None:
        """Unknown."""
        return None

    def check_padding(self) -> None:
        """A function of tokens alone cannot know padding."""
        raise InvalidValueError(
            "a function of tokens alone cannot tell padding; generate for prompts of equal length "
            "at a time"
        )

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`."""
        answer = self.model(tokens)
        logits = getattr(answer, "logits", answer)
        if (
            not isinstance(logits, torch.Tensor)
            or logits.shape[:2] != tokens.shape
            or logits.ndim != 3
        ):
            given = (
                list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            )
            raise InvalidTypeError(
                f"the model must return logits {[*tokens.shape, 'V']}, got {given}"
            )
        return logits
