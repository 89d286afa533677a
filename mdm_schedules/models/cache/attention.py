"""The hook for transformers' encoders, which take no cache: their registry of attention functions.

A model under `hooked` attends by the implementation that it had, "sdpa" or "eager". Only where the
calling thread has a store, keys, values and mask pass through that.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mdm_schedules.models.cache.store import KVStore

PREFIX = "mdm_cached_"
KINDS = ("sdpa", "eager")

_here = threading.local()
_lock = threading.Lock()
# models under `hooked`: number of running calls, and the implementation before the first of them
_users: weakref.WeakKeyDictionary[torch.nn.Module, tuple[int, str]] = weakref.WeakKeyDictionary()


@contextmanager
def using(store: KVStore) -> Iterator[None]:
    """Pass this thread's attention through `store`."""
    _here.store = store
    try:
        yield
    finally:
        _here.store = None


def attention_kind(config: Any) -> str:
    """The attention implementation by a model's config, as it is without the hook."""
    kind = str(getattr(config, "_attn_implementation", None) or "eager")
    return kind.removeprefix(PREFIX)


def can_hook(model: Any) -> bool:
    """Whether transformers lets the model's attention be replaced."""
    able = getattr(model, "_can_set_attn_implementation", None)
    return callable(able) and bool(able())


@contextmanager
def hooked(model: Any) -> Iterator[None]:
    """Replace the attention of `model`; the last user restores it."""
    with _lock:
        users, kind = _users.get(model, (0, attention_kind(model.config)))
        if not users:
            _register(kind)
            model.set_attn_implementation(PREFIX + kind)
        _users[model] = (users + 1, kind)
    try:
        yield
    finally:
        with _lock:
            users, kind = _users.pop(model)
            if users > 1:
                _users[model] = (users - 1, kind)
            else:
                model.set_attn_implementation(kind)


def _register(kind: str) -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PREFIX + kind, _sdpa if kind == "sdpa" else _eager)
    # without it no mask would be made
    AttentionMaskInterface.register(PREFIX + kind, AttentionMaskInterface()[kind])


def _spliced(key: Any, value: Any, mask: Any) -> tuple[Any, Any, Any]:
    store: KVStore | None = getattr(_here, "store", None)
    return (key, value, mask) if store is None else store.splice_in_order(key, value, mask)


def _sdpa(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    key, value, attention_mask = _spliced(key, value, attention_mask)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _eager(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> Any:
    # each modeling file has its own, which the registry does not know
    plain = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    key, value, attention_mask = _spliced(key, value, attention_mask)
    return plain(module, query, key, value, attention_mask, **kwargs)
