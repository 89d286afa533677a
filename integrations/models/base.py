"""What the sampler needs to know of a model family, in one small class. A new family is one module beside this one.

Register it under the entry-point group `mdm_schedules.models`, by the `model_type` of its config.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from mdm_schedules.errors import InvalidTypeError, PluginError
from mdm_schedules.registry import Registry


class ModelAdapter(ABC):
    """Binds one model; `logits` answers the sampling loop.

    Attributes:
        model: the model, which is only called.
    """

    name: str

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    @abstractmethod
    def accepts(cls, model: Any) -> bool:
        """Whether this adapter can drive `model`; asked in the order of names if no adapter has its model_type."""

    @abstractmethod
    def logits(
        self, tokens: torch.Tensor, rows: torch.Tensor, own: torch.Tensor | None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits of the wanted positions of `tokens` LongTensor [B, L].

        Args:
            rows: LongTensor [R], positions as b * L + column.
            own: bool [B, L], False on padding; None where nothing is padded.

        Returns:
            [R, V]; or logits [M, V] of more positions together with the LongTensor [R] of the wanted ones.
        """

    @property
    def device(self) -> torch.device:
        """Where token ids have to be: where the model computes, which under CPU offload is not where it lies."""
        # model offload leaves its hook on the model, sequential offload and dispatch on the modules inside
        for module in [self.model, *(self.model.modules() if self.model.device.type == "meta" else ())]:
            place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
            if place is not None:
                return torch.device(place)
        return self.model.device  # type: ignore[no-any-return]

    @property
    def mask_token_id(self) -> int | None:
        """The mask token by the model's own config, if that tells it."""
        return getattr(self.model.config, "mask_token_id", None)

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids that the model can read."""
        return self.model.get_input_embeddings().num_embeddings  # type: ignore[no-any-return]

    @property
    def max_length(self) -> int | None:
        """The longest sequence that the model has positions for."""
        return getattr(self.model.config, "max_position_embeddings", None)


models = Registry("mdm_schedules.models", "model adapter", ModelAdapter)


def get_adapter(model: Any, name: str | None = None) -> ModelAdapter:
    """The adapter for `model`: by `name`, else by config.model_type, else the first that accepts it."""
    if name is not None:
        return models.get(name)(model)  # type: ignore[no-any-return]
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type in models.names():
        return models.get(model_type)(model)  # type: ignore[no-any-return]
    for cls in models.load_all().values():
        if not issubclass(cls, ModelAdapter):
            raise PluginError(f"{cls!r} is no ModelAdapter")
        if cls.accepts(model):
            return cls(model)
    raise InvalidTypeError(
        f"{type(model).__name__} (model_type {model_type!r}) is no masked language model that an adapter accepts; "
        f"load one with AutoModelForMaskedDiffusion.from_pretrained(...). Adapters: {', '.join(models.names())}"
    )
