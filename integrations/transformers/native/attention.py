"""What a token sees: every token of its row, or those of its own block and of the blocks before.

The mask is made here for each attention implementation, since transformers' causal models make a
causal one. Nothing is made where everything is seen, so that the fastest kernels stay in use.
"""

from __future__ import annotations

from typing import Any

import torch

from mdm_schedules.errors import InvalidValueError


def positions_of(own: torch.Tensor) -> torch.Tensor:
    """Positions [B, L] that count a row's own tokens; `own` bool [B, L], False on padding."""
    return (own.long().cumsum(1) - 1).clamp(min=0)


def what_is_seen(
    config: Any,
    hidden: torch.Tensor,
    attention_mask: Any,
    positions: torch.Tensor,
    past: int = 0,
) -> Any:
    """The mask as the attention implementation of `config` takes it; None where all is seen.

    Args:
        config: with `block_length`, None for attention without blocks.
        hidden: [B, L, H], which gives dtype and device.
        attention_mask: [B, past + L], 0 on padding; None where nothing is padded; or a mask
            [B, 1, L, past + L] (or a BlockMask), which is taken as it is; or such a mask, or None
            for all seen, as {"full_attention": mask}.
        positions: [B or 1, L] of the tokens of `hidden`.
        past: number of cached tokens before them.

    Raises:
        InvalidValueError: flash attention is to attend by blocks, for which it has no mask.
    """
    # A mask of four dimensions, or flex attention's own, is the caller's decision already.
    kind = config._attn_implementation or "sdpa"
    if isinstance(attention_mask, dict):
        seen = attention_mask["full_attention"]
        return seen if kind == "sdpa" else _additive(seen, hidden)
    if attention_mask is not None and not (
        isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
    ):
        return attention_mask if kind == "sdpa" else _additive(attention_mask, hidden)
    own = None
    if attention_mask is not None:
        own = attention_mask.to(device=hidden.device, dtype=torch.bool)
        # Without padding no mask is needed, which lets attention choose its fastest kernel; under a
        # compiler the question would break the graph.
        if not torch.compiler.is_compiling() and bool(own.all()):
            own = None
    if own is None and config.block_length is None:
        return None
    if "flash" in kind:
        if config.block_length is not None:
            raise InvalidValueError(
                f"attn_implementation={kind!r} cannot attend by blocks "
                f"(block_length={config.block_length}); load the model with "
                "attn_implementation='sdpa' or 'flex_attention'"
            )
        return None if own is None else own.long()
    batch, length = hidden.shape[:2]
    # Numbers of blocks: a query of block i sees the keys of the blocks 0..i. [B or 1, L].
    keys = _key_blocks(config.block_length, own, positions, past, length)
    queries = None if keys is None else positions // config.block_length
    if own is not None:  # the softmax of a row that sees nothing is NaN
        own = own | ~own.any(1, keepdim=True)
    if kind == "flex_attention":
        return _block_mask(own, queries, keys, (batch, length, past + length), hidden.device)
    seen = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=hidden.device)
    if own is not None:
        seen = own[:, None, None, :]
    if queries is not None and keys is not None:
        seen = seen & (queries[:, None, :, None] >= keys[:, None, None, :])
    seen = seen.expand(batch, 1, length, past + length)
    return seen if kind == "sdpa" else _additive(seen, hidden)


def _key_blocks(
    block_length: int | None,
    own: torch.Tensor | None,
    positions: torch.Tensor,
    past: int,
    length: int,
) -> torch.Tensor | None:
    """The block [B or 1, past + L] of every token that can be seen; None without blocks."""
    if block_length is None:
        return None
    if own is not None:
        positions = positions_of(own)
    elif past:
        positions = torch.arange(past + length, device=positions.device)[None]
    return positions // block_length


def _additive(seen: Any, hidden: torch.Tensor) -> Any:
    if not isinstance(seen, torch.Tensor) or seen.dtype != torch.bool:
        return seen
    lowest = torch.finfo(hidden.dtype).min
    return torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(
        ~seen, lowest
    )


def _block_mask(
    own: torch.Tensor | None,
    queries: torch.Tensor | None,
    keys: torch.Tensor | None,
    shape: tuple[int, int, int],
    device: torch.device,
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    batch, length, total = shape
    if own is None:
        own = torch.ones(batch, total, dtype=torch.bool, device=device)
    if queries is None or keys is None:

        def allowed(b: Any, h: Any, q: Any, k: Any) -> Any:
            return own[b, k]

    else:
        ask, tell = queries.expand(batch, -1).contiguous(), keys.expand(batch, -1).contiguous()

        def allowed(b: Any, h: Any, q: Any, k: Any) -> Any:
            return own[b, k] & (ask[b, q] >= tell[b, k])

    return create_block_mask(allowed, batch, None, length, total, device=str(device))
