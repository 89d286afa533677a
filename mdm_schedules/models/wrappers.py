"""Finds the model inside its wrappers; no other module looks through wrappers."""

from __future__ import annotations

from typing import Any

import torch

# torch.compile; DataParallel and DistributedDataParallel
_INNER = ("_orig_mod", "module")


def unwrap(model: Any) -> Any:
    """Return the model inside torch.compile, data parallel wrappers and peft; others unchanged.

    Use the inner model for inspection only (config, embeddings, signature), and call the wrapper.
    """
    while True:
        inner = _inside(model)
        if inner is None:
            return model
        model = inner


def _inside(model: Any) -> torch.nn.Module | None:
    for name in _INNER:
        inner = getattr(model, name, None)
        wraps = name == "_orig_mod" or isinstance(
            model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel
        )
        if wraps and isinstance(inner, torch.nn.Module):
            return inner
    # peft's PeftModel hides the signature of the model that it adapts; recognised by the name of
    # its module, since peft is no dependency
    if type(model).__module__.partition(".")[0] == "peft" and hasattr(model, "get_base_model"):
        inner = model.get_base_model()
        return inner if isinstance(inner, torch.nn.Module) else None
    return None


def compiled(model: Any) -> bool:
    """Whether torch.compile runs `model` or a part of it, by a wrapper or in place.

    Compiled code does not see hooks that come later, and instances of one class share it.
    """
    if hasattr(model, "_orig_mod"):
        return True
    plain = unwrap(model)
    parts = (model, *plain.modules()) if isinstance(plain, torch.nn.Module) else ()
    return any(
        getattr(part, "_compiled_call_impl", None) is not None or "_orig_mod" in part._modules
        for part in parts
    )


def copies(model: Any) -> bool:
    """Whether `model` computes on copies of itself (DataParallel), one in each of its threads."""
    while model is not None:
        if isinstance(model, torch.nn.DataParallel):
            return True
        model = _inside(model)
    return False
