"""What is to happen as soon as another package has imported a module of its own.

Above all, transformers' auto classes know the native models as soon as both packages are imported.
Nothing is imported for it: a finder waits for the module, and steps aside then.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TABLES = "transformers.models.auto.modeling_auto"
NATIVE = "mdm_schedules.integrations.transformers.native"


class _Loader(importlib.abc.Loader):
    """Loads a module with its own loader, and then calls `then`."""

    def __init__(self, plain: Any, then: Callable[[], None]) -> None:
        self.plain, self.then = plain, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the plain loader."""
        created: ModuleType | None = self.plain.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """As the plain loader, which the module then keeps, and what is to happen."""
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self.plain
        self.plain.exec_module(module)
        self.then()


def _plain_spec(finder: importlib.abc.MetaPathFinder, name: str) -> ModuleSpec | None:
    """The spec of a module without this finder, which steps aside."""
    sys.meta_path.remove(finder)
    return importlib.util.find_spec(name)


class _After(importlib.abc.MetaPathFinder):
    """Waits for one module, once."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name, self.then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec with a loader that calls `then`; None for every other module."""
        if fullname != self.name:
            return None
        spec = _plain_spec(self, fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.then)
        return spec


def after_import(name: str, then: Callable[[], None]) -> None:
    """Call `then` now if the module `name` is imported, else when it is, once."""
    if name in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _After(name, then))


class _Finder(importlib.abc.MetaPathFinder):
    """Watches imports until the native models are registered."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The table's spec with a loader that registers; None for every other module."""
        if fullname != TABLES:
            if TABLES in sys.modules:  # the first try came while transformers was loading
                _register()
            return None
        spec = _plain_spec(self, fullname)
        sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            # modules that need the table may wait for it
            register = partial(_register, may_load=frozenset({TABLES}))
            spec.loader = _Loader(spec.loader, register)
        return spec


def _register(may_load: frozenset[str] = frozenset()) -> None:
    """Import the native models, unless a module of transformers is half loaded.

    They import modules of transformers that may be waiting for the very one that is loading.

    Args:
        may_load: modules that may be loading all the same.
    """
    for name, module in list(sys.modules.items()):
        loading = getattr(getattr(module, "__spec__", None), "_initializing", False)
        # An import of ours now would ask for names that the half-loaded module has not defined yet;
        # the next import of any module tries again.
        if loading and name.startswith("transformers.") and name not in may_load:
            return
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    importlib.import_module(NATIVE)


def watch() -> None:
    """Register the native models now if transformers has its table, else when it comes."""
    if TABLES in sys.modules:
        _register()
    if NATIVE not in sys.modules and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
