"""Keys and values of all layers, in buffers that are made once and written in place."""

from __future__ import annotations

from typing import Any

import torch

from mdm_schedules.models.cache.windows import Window


class KVStore:
    """The keys and values of one run, by layer: [B, key-value heads, length, head size] each.

    A model's attention hands its new keys and values to `splice` (or `update`, as transformers
    calls it) and attends to what it gets back.

    Args:
        length: columns that the buffers have room for.

    Attributes:
        nbytes: size of the buffers.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._masks: list[torch.Tensor | None] = []
        self._window = Window(0, 0, 0, True, False)
        self._copies, self._calls = 1, 0

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(part.nbytes for layer in self._layers for part in layer)

    @property
    def layers(self) -> int:
        """Number of layers that were written."""
        return len(self._layers)

    def begin(self, window: Window, copies: int = 1) -> None:
        """Announce a forward pass over the columns of `window`.

        Args:
            window: where the pass computes.
            copies: every row of the pass stands for so many rows of the store, next to each other.
        """
        self._window, self._copies, self._calls = window, copies, 0

    def splice(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write what the pass computed, and return what it attends to.

        Args:
            layer: from 0, in the order in which the first pass called.
            key, value: [B, key-value heads, W, head size] of the window's columns.

        Returns:
            keys and values [B, key-value heads, window.keys, head size].
        """
        place = slice(self._window.start, self._window.stop)
        if layer == len(self._layers):
            shape = (len(key) * self._copies, key.shape[1], self.length)
            # zeros, since what is hidden by a mask must be finite
            pair = (key.new_zeros(*shape, key.shape[3]), value.new_zeros(*shape, value.shape[3]))
            self._layers.append(pair)
        for held, new in zip(self._layers[layer], (key, value), strict=True):
            if self._copies > 1:
                new = new.repeat_interleave(self._copies, 0)
            held[:, :, place] = new
        if self._window.full:
            return key, value
        seen = slice(0, self._window.keys)
        return self._layers[layer][0][:, :, seen], self._layers[layer][1][:, :, seen]

    def splice_in_order(
        self, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """`splice` for layers that do not know their number, with the mask of the last full pass.

        Args:
            key, value: as in `splice`.
            mask: [B, 1, W, keys] of this pass; only that of a full pass is used.

        Returns:
            keys, values, and the mask for the window's columns.
        """
        layer, self._calls = self._calls, self._calls + 1
        key, value = self.splice(layer, key, value)
        if self._window.full:
            kept = mask
            if mask is not None and self._copies > 1 and len(mask) > 1:
                kept = mask.repeat_interleave(self._copies, 0)
            self._masks[layer : layer + 1] = [kept]
            return key, value, mask
        kept = self._masks[layer]
        if kept is not None and kept.shape[2] > 1:
            kept = kept[:, :, self._window.start : self._window.stop]
        return key, value, kept

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows only, when others have ended."""
        self._layers = [
            (key[rows.to(key.device)], value[rows.to(value.device)]) for key, value in self._layers
        ]
        self._masks = [
            mask if mask is None or len(mask) == 1 else mask[rows.to(mask.device)]
            for mask in self._masks
        ]

    # --- as transformers' attention layers call a cache

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`splice`, as layers of transformers call it."""
        return self.splice(layer_idx, key, value)

    def get_seq_length(self, *_: Any) -> int:
        """0: positions and masks are given with each pass."""
        return 0
