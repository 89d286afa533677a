"""Bridges to other libraries and engines; each is imported only when used."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    # so that `mdm.integrations.omnivoice` needs no import of its own
    if name.isidentifier() and name[0] != "_" and find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
