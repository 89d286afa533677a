"""Where positions lie, and what policies and commit rules keep of each sequence.

A policy or rule is one object that many runs share, so it keeps nothing itself. What it must
remember from pass to pass stands in the run's `Memory`: tensors with a row for each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch


class Memory:
    """Tensors [B, ...] by name, kept until the block ends; rows that end leave them."""

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}
        # memory of earlier blocks, taken again where shape and dtype fit: fresh memory costs time
        self._old: dict[str, torch.Tensor] = {}

    def tensor(
        self, name: str, shape: tuple[int, ...], fill: float | None, like: dict[str, Any]
    ) -> torch.Tensor:
        """The tensor of this name, made now if the block has none yet."""
        if name not in self._kept:
            old = self._old.pop(name, None)
            if old is None or old.shape != shape or old.dtype != like["dtype"]:
                old = torch.empty(shape, **like)
            self._kept[name] = old if fill is None else old.fill_(fill)
        return self._kept[name]

    def keep(self, rows: torch.Tensor) -> None:
        """Drop the sequences that are not among `rows`."""
        self._kept = {name: tensor[rows] for name, tensor in self._kept.items()}

    def clear(self) -> None:
        """Begin a block."""
        self._old, self._kept = self._old | self._kept, {}


@dataclass(frozen=True)
class Where:
    """Where the positions lie that are scored or decided on.

    `row`, `position`, `first` and `length` broadcast with each other: all are [R] where positions
    of several sequences stand in one list, and [B, 1] or [B, W] where each sequence has a row.

    Attributes:
        row: LongTensor, rows of the batch.
        position: LongTensor, counted from the sequence's own first token.
        first: LongTensor, the position of the row's first mask in the block, as the block began.
        length: LongTensor, columns from that mask to the row's last one in the block.
        step: column of the block's plan, from 0; where an `OrderPolicy` is asked, what its `score`
            is told.
        width: the largest `length` of the block in any batch that has this row's blocks; `offset`
            of a masked position is below it.
        tokens: LongTensor [B, L], the sequences as the pass sees them; not to be changed.
        prompt: bool [B, L], True on what the prompt gives.
    """

    row: torch.Tensor
    position: torch.Tensor
    first: torch.Tensor
    length: torch.Tensor
    step: int
    width: int
    tokens: torch.Tensor
    prompt: torch.Tensor
    memory: Memory = field(default_factory=Memory, repr=False)

    @property
    def offset(self) -> torch.Tensor:
        """LongTensor, the place in the block, counted from the row's first mask in it."""
        return self.position - self.first

    def remember(
        self,
        name: str,
        shape: tuple[int, ...] = (),
        fill: float | None = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """A tensor [B, width, *shape] that is kept until the block ends; change it in place.

        Args:
            name: of the tensor; begin it with the name of your class.
            shape: of what is kept for each place in the block.
            fill: what it holds at first; None leaves it to chance, which is cheaper for large ones.
            dtype: of the tensor.
        """
        like = {"dtype": dtype, "device": self.position.device}
        return self.memory.tensor(name, (len(self.tokens), self.width, *shape), fill, like)

    def part(self, start: int, stop: int) -> Where:
        """Entries start to stop of a list of positions."""
        names = ("row", "position", "first", "length")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in names})

    @classmethod
    def whole(cls, tokens: torch.Tensor, masked: torch.Tensor, step: int = 0) -> Where:
        """Every position [B, L] of sequences without padding that are one block.

        Args:
            tokens: LongTensor [B, L].
            masked: bool [B, L], what is to be filled.
            step: of the plan.
        """
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        position = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        first, length = extent(masked)
        width = tokens.shape[1]
        return cls(row, position, first[:, None], length[:, None], step, width, tokens, ~masked)

    def flat(self) -> Where:
        """The same positions as one list."""
        names = ("row", "position", "first", "length")
        lists = torch.broadcast_tensors(*(getattr(self, name) for name in names))
        return replace(self, **dict(zip(names, (one.flatten() for one in lists), strict=True)))


def extent(masked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first True column [B] of each row of a bool [B, L], and the columns to the last one [B].

    Both are 0 for a row without any.
    """
    column = torch.arange(1, masked.shape[1] + 1, device=masked.device)
    first = masked.to(torch.uint8).argmax(1)
    after_last = torch.where(masked, column, 0).amax(1)
    return first, (after_last - first).clamp(min=0)
