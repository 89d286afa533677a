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
