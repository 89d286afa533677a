"""Bridges to other libraries and engines; each is imported only when used."""

from __future__ import annotations

import importlib
from types import ModuleType

_BRIDGES = (
    "accelerate",
    "diffusers",
    "diffusion_gemma",
    "engines",
    "lm_eval",
    "omnivoice",
    "sglang",
    "transformers",
    "vllm",
)


def __getattr__(name: str) -> ModuleType:
    # so that `mdm.integrations.omnivoice` needs no import of its own
    if name in _BRIDGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
