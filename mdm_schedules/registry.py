"""Names to classes to instances: entry points, classes registered at run time, and spec strings.

Schedules, position policies, commit rules and model adapters share it. Our own are entry points
too, so a third-party package is on an equal footing:

    [project.entry-points."mdm_schedules.schedules"]
    my_schedule = "my_package:MySchedule"
"""

from __future__ import annotations

import ast
import inspect
import sys
import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any, Generic, TypeVar

from mdm_schedules.checks import did_you_mean, shown
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    PluginError,
    UnknownNameError,
)

MAX_SPEC_LENGTH = 1 << 22
MAX_SPEC_DEPTH = 16

T = TypeVar("T")
Call = tuple[str, list[Any], dict[str, Any]]  # name, positional and keyword parameters


@dataclass(frozen=True)
class Entry:
    """One registered name: where it comes from and what it points to.

    The origin is a distribution, or 'registered at run time'.
    """

    name: str
    source: str
    target: str


@lru_cache(maxsize=8)
def _entry_points(group: str, search_path: tuple[str, ...]) -> dict[str, list[metadata.EntryPoint]]:
    """Entry points by name; the same distribution seen twice on the path counts once.

    An editable install may be seen twice, say. Only the same spelling counts once: a distribution
    that claims a name in two spellings clashes with itself.
    """
    # The cache is keyed by the search path, so that what is added to sys.path later is seen.
    found: dict[str, dict[tuple[str, str], metadata.EntryPoint]] = {}
    for point in _installed(group):
        found.setdefault(canonical(point.name), {}).setdefault(
            (_distribution(point), point.name), point
        )
    return {name: list(points.values()) for name, points in found.items()}


def canonical(name: str) -> str:
    """How a name is kept and looked up: 'log-linear' is 'log_linear'.

    With its hyphen, 'a-b(p=1)' would be a subtraction.
    """
    return name.strip().replace("-", "_")


def _installed(group: str) -> list[metadata.EntryPoint]:
    try:
        points = list(metadata.entry_points(group=group))
        for point in points:
            _distribution(point)
        return points
    except Exception:  # one damaged distribution is enough; take the others one by one
        points, seen = [], set()
        for distribution in metadata.distributions():
            try:
                name = distribution.metadata["Name"]
                if name.lower() not in seen:
                    points += distribution.entry_points.select(group=group)
                    seen.add(name.lower())
            except Exception as error:
                where = getattr(distribution, "_path", distribution)
                warnings.warn(
                    f"the entry points of {where} cannot be read: {error!r}", stacklevel=2
                )
        return points


def _distribution(point: metadata.EntryPoint) -> str:
    # None, too, where its metadata are missing
    name = point.dist.name if point.dist is not None else None
    return name or point.value


def check_named(plugin: object) -> None:
    """Raise unless a plug-in that is given as an object has the name that messages call it by."""
    if not isinstance(getattr(plugin, "name", None), str):
        raise InvalidTypeError(
            f"{type(plugin).__name__} needs a class attribute name, such as name = 'mine'"
        )


class Registry(Generic[T]):
    """The names of one entry-point group, and the objects that they stand for.

    Args:
        group: the entry-point group.
        kind: what errors call its members.
        base: the class that they must derive from.
        example: a spec that can be read, for errors.
    """

    def __init__(self, group: str, kind: str, base: type[T], example: str = "") -> None:
        self.group, self.kind, self.base, self.example = group, kind, base, example
        self._local: dict[str, type[T]] = {}
        self._loaded: dict[tuple[str, str], type[T]] = {}
        self._lock = threading.Lock()

    def _points(self) -> dict[str, list[metadata.EntryPoint]]:
        return _entry_points(self.group, tuple(sys.path))

    def names(self) -> list[str]:
        return sorted({*self._points(), *self._local})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and canonical(name) in {*self._points(), *self._local}

    def entries(self) -> list[Entry]:
        """Every name and where it comes from, without loading anything.

        A name claimed twice is listed twice.
        """
        rows = [
            Entry(name, _distribution(point), point.value)
            for name, points in self._points().items()
            for point in points
        ]
        rows += [
            Entry(name, "registered at run time", f"{cls.__module__}:{cls.__qualname__}")
            for name, cls in self._local.items()
        ]
        return sorted(rows, key=lambda row: (row.name, row.source))

    def register(self, cls: type[T], name: str | None = None) -> type[T]:
        """Add a class for this process only; usable as a decorator.

        Registering a taken name raises PluginError.
        """
        self._check(cls, f"{cls!r}")
        name = getattr(cls, "name", None) if name is None else name
        if not isinstance(name, str) or not name:
            raise PluginError(f"{cls!r} needs a class attribute name = '...', got {shown(name)}")
        name = canonical(name)
        with self._lock:
            taken = [row for row in self.entries() if row.name == name]
            if taken and self._local.get(name) is not cls:
                raise PluginError(
                    f"the {self.kind} name {name!r} is taken by {taken[0].target} "
                    f"({taken[0].source})"
                )
            self._local[name] = cls
        return cls

    def get(self, name: str) -> type[T]:
        """The class behind `name`, loaded now if it was not before.

        Raises UnknownNameError with the nearest names, or PluginError for a clash or a package that
        fails to load.
        """
        given, name = name, canonical(name)
        if name in self._local:
            return self._local[name]
        points = self._points().get(name, [])
        if not points:
            raise UnknownNameError(
                f"no {self.kind} is named {shown(given)}.{did_you_mean(name, self.names())}"
            )
        if len(points) > 1:
            owners = " and ".join(f"{_distribution(point)} ({point.value})" for point in points)
            raise PluginError(
                f"the {self.kind} name {name!r} is claimed by {owners}; uninstall one of them"
            )
        key = (name, points[0].value)
        if key not in self._loaded:
            origin = f"{points[0].value} of {_distribution(points[0])}"
            try:
                # Somebody else's module: it may raise anything, and may even try to end the
                # process.
                cls = points[0].load()
            except (Exception, SystemExit) as error:
                raise PluginError(
                    f"the {self.kind} {name!r} ({origin}) cannot be loaded: {error!r}"
                ) from error
            self._check(cls, origin)
            self._loaded[key] = cls
        return self._loaded[key]

    def load_all(self) -> dict[str, type[T]]:
        """Every class that loads.

        A class that does not is left out with a warning that names its package.
        """
        loaded = {}
        for name in self.names():
            try:
                loaded[name] = self.get(name)
            except PluginError as error:
                warnings.warn(str(error), stacklevel=2)
        return loaded

    def _check(self, cls: Any, origin: str) -> None:
        if not isinstance(cls, type) or not issubclass(cls, self.base):
            raise PluginError(f"{origin} must be a subclass of {self.base.__name__}, got {cls!r}")

    def build(self, name: str, positional: list[Any], params: dict[str, Any]) -> T:
        """Construct a member; wrong parameters get an error that shows the right ones."""
        cls = self.get(name)
        allowed = list(inspect.signature(cls).parameters)
        usage = f"{name}({', '.join(allowed)})"
        for key in params:
            if key not in allowed:
                near = did_you_mean(key, allowed) if allowed else " It takes none."
                raise InvalidValueError(
                    f"{self.kind} {name!r} has no parameter {shown(key)}; its form is "
                    f"{usage}.{near}"
                )
        try:
            # Too many or too few are told apart from a fault inside the constructor.
            inspect.signature(cls).bind(*positional, **params)
        except TypeError as error:
            raise InvalidValueError(f"{self.kind} {name!r}: {error}; its form is {usage}") from None
        try:
            return cls(*positional, **params)
        except MDMError as error:
            raise type(error)(f"{self.kind} {name!r}: {error}") from None
        except (TypeError, ValueError) as error:  # from a class that does not raise ours
            raise InvalidValueError(f"{self.kind} {name!r}: {error}") from error

    def read(self, spec: str, /, **params: Any) -> T:
        """The member that a name or spec such as "beta(a=0.9, b=0.3)" stands for.

        Reads no file, so it is safe on text from a file or repository.
        """
        name, positional, written = self.parse(spec)
        twice = sorted(written.keys() & params.keys())
        if twice:
            raise InvalidValueError(
                f"parameter {twice[0]!r} is given twice, in {shown(spec)} and as an argument"
            )
        return self.build(name, positional, {**written, **params})

    def parse(self, text: str) -> Call:
        """Split "name(a=1, b=[0, 1], gamma=other(p=2))"; a nested call is built, no code run."""
        if len(text) > MAX_SPEC_LENGTH:
            raise InvalidValueError(
                f"a {self.kind} spec may have at most {MAX_SPEC_LENGTH} characters, got {len(text)}"
            )
        stripped = text.strip()
        if "(" not in stripped:
            return canonical(stripped), [], {}
        try:
            # Parsed as Python, and only calls, names and literals are accepted: nothing in it runs.
            tree = ast.parse(stripped, mode="eval").body
            if not isinstance(tree, ast.Call):
                raise ValueError
            return self._call(tree, 0)
        except MDMError:
            raise
        except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError):
            raise InvalidValueError(
                f"cannot read the {self.kind} spec {shown(stripped)}; write it like "
                f"{self.example!r}"
            ) from None

    def _call(self, node: ast.Call, depth: int) -> Call:
        named = isinstance(node.func, ast.Name) and all(k.arg is not None for k in node.keywords)
        if depth > MAX_SPEC_DEPTH or not named:
            raise ValueError
        name: str = node.func.id  # type: ignore[attr-defined]
        values = {k.arg: self._value(k.value, depth) for k in node.keywords if k.arg}
        if len(values) < len(node.keywords):
            raise InvalidValueError(f"a parameter of {name!r} is given twice in a {self.kind} spec")
        return name, [self._value(argument, depth) for argument in node.args], values

    def _value(self, node: ast.expr, depth: int) -> Any:
        if isinstance(node, ast.Call):
            return self.build(*self._call(node, depth + 1))
        if isinstance(node, ast.Name) and node.id.lower() in ("nan", "inf", "infinity"):
            return float(node.id)  # which whoever takes it refuses by its name
        if isinstance(node, ast.Name):  # sine as sine()
            return self.build(*self._call(ast.Call(node, [], []), depth + 1))
        return ast.literal_eval(node)
