"""What a store takes, known before it is made."""

from __future__ import annotations

import os
from typing import Any

import torch

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.models.wrappers import unwrap


def cache_size(model: Any, length: int, *, batch_size: int = 1, dtype: Any = None) -> int:
    """Bytes of the keys and values of all layers.

    That is 2 x layers x key-value heads x head size x `length` x `batch_size` x bytes per value.

    Args:
        model: a transformers model, its config, or an adapter.
        length: tokens of a sequence, prompt and answer.
        batch_size: sequences at once; guidance doubles them.
        dtype: of the model; by default its own, else float32.

    Raises:
        InvalidTypeError: the config does not give the sizes.
    """
    length = check_int("length", length, 1, example="cache_size(model, 1280)")
    batch_size = check_int("batch_size", batch_size, 1)
    plain = unwrap(getattr(model, "model", model) if hasattr(model, "plain_model") else model)
    config = getattr(plain, "config", plain)
    try:
        heads = int(config.num_attention_heads)
        layers = int(config.num_hidden_layers)
        pairs = int(getattr(config, "num_key_value_heads", None) or heads)
        head = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    except (AttributeError, TypeError) as error:
        raise InvalidTypeError(
            f"{type(plain).__name__} does not say how large its keys and values are ({error}); "
            "cache_size takes a transformers model or its config"
        ) from None
    kind = dtype or getattr(plain, "dtype", None) or torch.float32
    each = kind.itemsize if isinstance(kind, torch.dtype) else torch.float32.itemsize
    return 2 * layers * pairs * head * length * batch_size * each


def room_for(device: torch.device | None) -> int | None:
    """Bytes that can still be taken on `device`; None where that is not known."""
    if device is not None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what torch holds and does not use
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device is None or device.type == "cpu":
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
    return None
