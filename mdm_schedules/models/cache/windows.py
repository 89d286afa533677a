"""Which columns a pass computes: plain data, from the blocks and the plan's steps only.

Nothing here depends on the batch, so a row's tokens do not either. An approximate cache is
refreshed by the step of the plan, not by the number of calls: a step that reveals nothing in any
row of a batch is no call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Mode = Literal["exact", "prefix", "dual"]


class Place(Protocol):
    """What is read of a `Pass`."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def block(self) -> int: ...


@dataclass(frozen=True)
class Window:
    """The columns [start, stop) that a pass computes, and the `keys` columns that they may see.

    Attributes:
        full: everything that can be seen is computed anew.
        one_block: the model's attention by blocks hides none of the keys from the columns.
    """

    start: int
    stop: int
    keys: int
    full: bool
    one_block: bool


@dataclass(frozen=True)
class CacheSettings:
    """What is kept between passes.

    Attributes:
        mode: "exact" keeps what later blocks cannot change, of a model that attends by blocks;
            "prefix" keeps the columns before the block, "dual" all columns outside it, both as they
            were when they were last computed.
        first: the column where the first block's changes begin; what is before it is prompt.
        refresh: an approximate cache is computed anew every so many steps of a block's plan; 0 is
            at the start of a block only, 1 is every pass, which is no approximation.
        refresh_blocks: ... and at the start of every so manieth block.
        shift: 1 where the logits of a column are those at the column before it.
        block_length: the model's own; `first` is the start of such a block.
    """

    mode: Mode
    first: int
    refresh: int = 0
    refresh_blocks: int = 1
    shift: int = 0
    block_length: int | None = None


class Windows:
    """The window of each pass of one run; asked once for each, in their order."""

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self._block: int | None = None
        self._start = self._epoch = 0

    def next(self, where: Place) -> Window:
        """The window of the pass at `where`."""
        told = self.settings
        start = where.start if where.block else told.first
        entered = where.block != self._block
        epoch = where.step // told.refresh if told.refresh else 0
        full = self._block is None
        if told.mode != "exact":
            full |= entered and where.block % told.refresh_blocks == 0
            full |= not entered and epoch != self._epoch
        # the last pass of a block wrote tokens that no pass has read: the next block's first one
        # computes that block again, together with its own
        begin = self._start if entered else start
        self._block, self._start, self._epoch = where.block, start, epoch
        stop = where.length if told.mode == "prefix" else where.end
        keys = where.end if told.mode == "exact" else where.length
        begin, stop = (0, keys) if full else (max(0, begin - told.shift), stop)
        one = told.block_length is None or (
            (begin - told.first) // told.block_length
            == (keys - 1 - told.first) // told.block_length
        )
        return Window(begin, stop, keys, full, one)
