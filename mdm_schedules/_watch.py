"""transformers' auto classes know the native models as soon as both packages are imported.

transformers is not imported for it: a finder waits for its table of models, and steps aside then.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TABLES = "transformers.models.auto.modeling_auto"
NATIVE = "mdm_schedules.integrations.transformers.native"


class _Loader(importlib.abc.Loader):
    """Loads the table with its own loader, then the native models, which register themselves."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the plain loader."""
        created: ModuleType | None = self.plain.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """As the plain loader, and register."""
        self.plain.exec_module(module)
        importlib.import_module(NATIVE)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The table's spec with a loader that registers; None for every other module."""
        if fullname != TABLES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def watch() -> None:
    """Register the native models now if transformers has its table, else when it comes."""
    if TABLES in sys.modules:
        importlib.import_module(NATIVE)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
