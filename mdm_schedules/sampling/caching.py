"""From the options to the cache of one run; everything wrong is said before the first pass."""

from __future__ import annotations

from typing import Protocol, cast

import torch

from mdm_schedules.checks import check_int, say_once
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models import ModelAdapter
from mdm_schedules.models.cache import CacheSettings, Mode, PassCache, cache_size, room_for
from mdm_schedules.sampling.options import MODES, GenerateOptions


class Canvas(Protocol):
    """What is read of a checked prompt."""

    @property
    def tokens(self) -> torch.Tensor: ...
    @property
    def attention_mask(self) -> torch.Tensor: ...
    @property
    def length(self) -> int: ...
    @property
    def block_ends(self) -> list[int]: ...
    @property
    def mask_token_id(self) -> int: ...


def choose_cache(
    adapter: ModelAdapter, chosen: GenerateOptions, prompt: Canvas, streams: int = 1
) -> PassCache | None:
    """The cache that the options ask for; None where every pass computes everything.

    Args:
        adapter: of the model.
        chosen: the merged options.
        prompt: prompts and masks.
        streams: forward passes over the same rows at once: 2 with guidance.

    Raises:
        InvalidTypeError, InvalidValueError: a cache that the model has not, options that contradict
            each other, prompts of which only some hold masks, or a store that does not fit into
            memory.
    """
    mode = MODES("cache", "auto" if chosen["cache"] is None else chosen["cache"])
    refresh = check_int("cache_refresh", chosen["cache_refresh"], 0)
    blocks = check_int("cache_refresh_blocks", chosen["cache_refresh_blocks"], 1)
    copies = check_int("num_return_sequences", chosen["num_return_sequences"], 1)
    if mode == "auto" and (refresh or blocks > 1):
        raise InvalidValueError(
            f"cache_refresh={refresh} and cache_refresh_blocks={blocks} are for an approximate "
            "cache, and cache='auto' is none; give cache='dual' or 'prefix' with them"
        )
    if refresh and blocks > 1:
        raise InvalidValueError(
            f"cache_refresh={refresh} refreshes within blocks, cache_refresh_blocks={blocks} only "
            f"at every {blocks}th block's start; give one of them"
        )
    if mode == "none" or (mode == "auto" and adapter.block_length is None):
        return None
    support = adapter.cache_support()
    needed = "exact" if mode == "exact" else "approximate"
    if mode != "auto" and support.kind != needed:
        raise _refused(adapter, mode, support.kind, support.reason)
    if support.kind is None:
        return None
    mode = "exact" if mode == "auto" else mode
    first = _exact_first(adapter, prompt) if mode == "exact" else _first(prompt)
    if not first and len(prompt.block_ends) == 1:
        if chosen["cache"] == mode:
            say_once(
                f"cache={mode!r} has nothing to keep for a single block without a prompt, so that "
                "every pass computes everything; block_length=32 makes blocks"
            )
        return None
    settings = CacheSettings(
        cast(Mode, mode), first, refresh, blocks, adapter.shift, adapter.block_length
    )
    rows, length = prompt.tokens.shape
    size = cache_size(adapter, length, batch_size=rows * streams)
    room = room_for(adapter.device)
    if room is not None and size > room:
        text = (
            f"cache={mode!r} needs {size / 1e9:.1f} GB for {rows * streams} sequences of {length} "
            f"tokens, and {room / 1e9:.1f} GB are free"
        )
        if chosen["cache"] == mode:
            raise InvalidValueError(f"{text}; make batches smaller, or give cache='none'")
        say_once(f"no cache: {text}")
        return None
    return PassCache(adapter, settings, copies)


def _refused(adapter: ModelAdapter, mode: str, kind: str | None, reason: str) -> InvalidValueError:
    has = {
        "exact": "cache='exact' or 'none'",
        "approximate": "cache='prefix' or 'dual' (approximate), or 'none'",
        None: "cache='none' only",
    }[kind]
    name = type(adapter.plain_model).__name__
    return InvalidValueError(f"cache={mode!r} does not fit: {name} {reason}; it takes {has}")


def _masked_columns(prompt: Canvas) -> torch.Tensor:
    """bool [B, P], True where the prompt holds a mask to be filled."""
    ours = (prompt.tokens == prompt.mask_token_id) & prompt.attention_mask
    return ours[:, : prompt.length]


def _exact_first(adapter: ModelAdapter, prompt: Canvas) -> int:
    """The first column of the first of the model's blocks that holds a mask in any row."""
    block = adapter.block_length
    assert block is not None
    real = prompt.attention_mask[0, : prompt.length].sum()
    start = prompt.length - int(real)  # where blocks are counted from, in all rows but for blocks
    masked = _masked_columns(prompt).any(0)
    column = int(masked.to(torch.uint8).argmax()) if bool(masked.any()) else prompt.length
    return max(0, column - (column - start) % block)


def _first(prompt: Canvas) -> int:
    """The end of the prompts, or 0 where they hold masks, which the first block fills too."""
    masked = _masked_columns(prompt).any(1)
    if bool(masked.any()) and not bool(masked.all()):
        raise InvalidValueError(
            "some prompts hold mask tokens and some do not: an approximate cache would keep more "
            "for the latter alone than in this batch; generate for them apart, or give cache='none'"
        )
    return 0 if bool(masked.any()) else prompt.length
