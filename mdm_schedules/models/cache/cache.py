"""One run's cache: it turns the question of a pass into one about a window."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mdm_schedules.models.cache.store import KVStore
from mdm_schedules.models.cache.windows import CacheSettings, Place, Window, Windows

if TYPE_CHECKING:
    from mdm_schedules.models.base import ModelAdapter


@dataclass(frozen=True)
class CacheUse:
    """What the cache of a run was.

    Attributes:
        mode: "exact", "prefix" or "dual".
        refresh, refresh_blocks: of an approximate one.
        nbytes: bytes of keys and values.
        computed: columns of a sequence that the passes computed, in all.
        without: the same, without the cache.
    """

    mode: str
    refresh: int
    refresh_blocks: int
    nbytes: int
    computed: int
    without: int


class PassCache:
    """Keeps keys and values between the passes of one run.

    Args:
        adapter: of the model.
        settings: what is kept.
        copies: so many rows next to each other begin as one, so that the first pass computes them
            once.
    """

    def __init__(self, adapter: ModelAdapter, settings: CacheSettings, copies: int = 1) -> None:
        self.adapter, self.settings, self.copies = adapter, settings, copies
        self._nbytes = self._computed = self._without = 0
        self._windows = Windows(settings)
        self._store: KVStore | None = None
        self._window = Window(0, 0, 0, True, False)
        self._held = ExitStack()

    def at(self, where: Place) -> None:
        """Receive the place of the next pass."""
        self._window = self._windows.next(where)
        if self._store is None:
            self._store = KVStore(where.length)
            self._held.enter_context(self.adapter.caching())

    def logits(
        self, tokens: torch.Tensor, rows: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """As `ModelAdapter.logits`; computes the columns of the window only."""
        assert self._store is not None
        copies = self.copies if not self._store.layers else 1
        if copies > 1:
            length = tokens.shape[1]
            rows = rows // length // copies * length + rows % length
            tokens = tokens[::copies]
            attention_mask = None if attention_mask is None else attention_mask[::copies]
        self._store.begin(self._window, copies)
        answer = self.adapter.window_logits(tokens, rows, attention_mask, self._window, self._store)
        self._computed += self._window.stop - self._window.start
        self._without += self._window.keys
        self._nbytes = max(self._nbytes, self._store.nbytes)
        return answer

    @property
    def use(self) -> CacheUse:
        """What was used so far."""
        told = self.settings
        spent = (self._nbytes, self._computed, self._without)
        return CacheUse(told.mode, told.refresh, told.refresh_blocks, *spent)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows only."""
        if self._store is not None:
            self._store.keep(rows)

    def close(self) -> None:
        """Free the store, and leave the model as it was."""
        self._store = None
        self._held.close()
