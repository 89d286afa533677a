"""Names to classes: entry points of installed packages, classes registered at run time, and spec
strings.

Our own schedules and adapters are entry points too, so a third-party package is on an equal
footing:

    [project.entry-points."mdm_schedules.schedules"]
    my_schedule = "my_package:MySchedule"
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    PluginError,
    UnknownNameError,
    did_you_mean,
    shown,
)
from mdm_schedules.schedules.base import Schedule

MAX_SPEC_LENGTH = 1 << 22
MAX_SPEC_DEPTH = 16


@dataclass(frozen=True)
class Entry:
    """One registered name: where it comes from (a distribution, or 'registered at run time') and
    what it points to.
    """

    name: str
    source: str
    target: str


@lru_cache(maxsize=8)
def _entry_points(group: str, search_path: tuple[str, ...]) -> dict[str, list[metadata.EntryPoint]]:
    """Entry points by name; the same distribution seen twice on the path (an editable install, say)
    counts once.

    Only the same name in the same spelling does: one that claims a name in two spellings clashes
    with itself.
    """
    found: dict[str, dict[tuple[str, str], metadata.EntryPoint]] = {}
    for point in _installed(group):
        found.setdefault(canonical(point.name), {}).setdefault(
            (_distribution(point), point.name), point
        )
    return {name: list(points.values()) for name, points in found.items()}


def canonical(name: str) -> str:
    """How a name is kept and looked up: 'log-linear' is 'log_linear', since 'a-b(p=1)' would be a
    subtraction.
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


class Registry:
    """The names of one entry-point group. `kind` is what errors call its members, `base` the class
    they must have.
    """

    def __init__(self, group: str, kind: str, base: type) -> None:
        self.group, self.kind, self.base = group, kind, base
        self._local: dict[str, type] = {}
        self._loaded: dict[tuple[str, str], type] = {}
        self._lock = threading.Lock()

    def _points(self) -> dict[str, list[metadata.EntryPoint]]:
        return _entry_points(self.group, tuple(sys.path))

    def names(self) -> list[str]:
        return sorted({*self._points(), *self._local})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and canonical(name) in {*self._points(), *self._local}

    def entries(self) -> list[Entry]:
        """Every name and where it comes from, without loading anything; a name claimed twice is
        listed twice.
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

    def register(self, cls: type, name: str | None = None) -> type:
        """Add a class for this process only. Registering a taken name raises PluginError; usable
        as a decorator.
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

    def get(self, name: str) -> type:
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
                cls = points[0].load()
            except (Exception, SystemExit) as error:
                raise PluginError(
                    f"the {self.kind} {name!r} ({origin}) cannot be loaded: {error!r}"
                ) from error
            self._check(cls, origin)
            self._loaded[key] = cls
        return self._loaded[key]

    def load_all(self) -> dict[str, type]:
        """Every class that loads; one that does not is left out with a warning that names its
        package.
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


schedules = Registry("mdm_schedules.schedules", "schedule", Schedule)


def list_schedules() -> list[Entry]:
    """The schedule names that `get_schedule` knows, each with the package it comes from; loads
    none of them.
    """
    return schedules.entries()


def register_schedule(cls: type[Schedule]) -> type[Schedule]:
    """Make a Schedule subclass reachable by its `name` in this process (a package uses an entry
    point instead).
    """
    name = getattr(cls, "name", None)
    if isinstance(name, str) and not name.isidentifier():
        raise PluginError(
            "the name of a schedule must read like a Python name, as in 'my_schedule', got "
            f"{shown(name)}"
        )
    return schedules.register(cls)


def get_schedule(spec: str | os.PathLike[str] | Schedule, **params: Any) -> Schedule:
    """A schedule from a name, a spec string, a folder or a Hub id.

    Args:
        spec: a name with `params` ("beta", a=0.9, b=0.3); text as `repr` writes it ("beta(a=0.9,
            b=0.3)"); a folder or file that `save_pretrained` wrote, or a Hub id ("user/repo",
            "user/repo@revision"), with the arguments of `Schedule.from_pretrained` (steps=16,
            task="gsm8k", ...); a preset ("preset:llada-8b/mbpp", steps=16; or
            "preset:llada-8b/mbpp(steps=16)"), the paper's best for a task and number of steps; or a
            Schedule, returned as it is.

    Raises:
        UnknownNameError: no such schedule; the message lists the nearest names.
        InvalidValueError: a misspelt or missing parameter, or one out of range.
        InvalidTypeError: `spec` is none of the above.
    """
    if isinstance(spec, Schedule):
        if params:
            raise InvalidValueError(
                f"parameters {sorted(params)} cannot be added to {spec!r}, which is already built"
            )
        return spec
    if isinstance(spec, str) and spec.strip().startswith("preset:"):
        from mdm_schedules.presets import preset_schedule

        if params.keys() - {"steps"}:
            raise InvalidValueError(f"a preset takes steps only, got {sorted(params)}")
        return preset_schedule(spec, **params)
    if isinstance(spec, os.PathLike) or (isinstance(spec, str) and _is_path(spec)):
        if unknown := sorted(
            params.keys() - inspect.signature(Schedule.from_pretrained).parameters.keys()
        ):
            raise InvalidValueError(
                f"parameters {unknown} cannot be added to the schedule saved in {spec}"
            )
        return Schedule.from_pretrained(spec, **params)
    if not isinstance(spec, str):
        raise InvalidTypeError(
            f"a schedule must be a name, a spec string, a folder or a Schedule, got {shown(spec)}; "
            "for example get_schedule('beta(a=0.9, b=0.3)')"
        )
    return read_spec(spec, **params)


def schedule_for_steps(
    spec: str | os.PathLike[str] | Schedule, steps: int | None, **params: Any
) -> Schedule:
    """`get_schedule` where the number of passes is known: it chooses where `spec` alone leaves
    several.
    """
    from mdm_schedules.hub.places import SeveralSchedulesError

    if steps is not None and isinstance(spec, str) and re.fullmatch(r"\s*preset:[^(]*", spec):
        return get_schedule(spec, steps=steps, **params)
    try:
        return get_schedule(spec, **params)
    except SeveralSchedulesError:
        if steps is None:
            raise
        return get_schedule(spec, steps=steps, **params)


def read_spec(spec: str, /, **params: Any) -> Schedule:
    """`get_schedule` for a name or spec only: reads no file, so it is safe on text from a file or
    repository.
    """
    name, positional, written = parse_spec(spec)
    twice = sorted(written.keys() & params.keys())
    if twice:
        raise InvalidValueError(
            f"parameter {twice[0]!r} is given twice, in {shown(spec)} and as an argument"
        )
    return build(name, positional, {**written, **params})


def _is_path(text: str) -> bool:
    looks = text.startswith((".", "/", "~", "\\")) or (os.sep in text and "(" not in text)
    # a folder that happens to be called 'linear' does not hide the schedule of that name
    return looks or ("(" not in text and os.path.isdir(text) and text not in schedules)


def build(name: str, positional: list[Any], params: dict[str, Any]) -> Schedule:
    """Construct a registered schedule; wrong parameters get an error that shows the right ones."""
    cls = schedules.get(name)
    allowed = list(inspect.signature(cls).parameters)
    usage = f"{name}({', '.join(allowed)})"
    for key in params:
        if key not in allowed:
            raise InvalidValueError(
                f"schedule {name!r} has no parameter {shown(key)}; its form is "
                f"{usage}.{_near(key, allowed)}"
            )
    try:
        inspect.signature(cls).bind(*positional, **params)
    except TypeError as error:
        raise InvalidValueError(f"schedule {name!r}: {error}; its form is {usage}") from None
    try:
        schedule = cls(*positional, **params)
    except MDMError as error:
        raise type(error)(f"schedule {name!r}: {error}") from None
    except (TypeError, ValueError) as error:  # from a class that does not raise ours
        raise InvalidValueError(f"schedule {name!r}: {error}") from error
    return schedule  # type: ignore[no-any-return]


def _near(key: str, allowed: list[str]) -> str:
    return did_you_mean(key, allowed) if allowed else " It takes none."


def parse_spec(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Split "name(a=1, b=[0, 1], gamma=other(p=2))" into name, positional and keyword parameters.
    Evaluates no code.
    """
    if len(text) > MAX_SPEC_LENGTH:
        raise InvalidValueError(
            f"a schedule spec may have at most {MAX_SPEC_LENGTH} characters, got {len(text)}"
        )
    stripped = text.strip()
    if "(" not in stripped:
        return canonical(stripped), [], {}
    try:
        tree = ast.parse(stripped, mode="eval").body
        if not isinstance(tree, ast.Call):
            raise ValueError
        return _call(tree, 0)
    except MDMError:
        raise
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError):
        raise InvalidValueError(
            f"cannot read the schedule spec {shown(stripped)}; write it like 'beta(a=0.9, b=0.3)'"
        ) from None


def _call(node: ast.Call, depth: int) -> tuple[str, list[Any], dict[str, Any]]:
    if (
        depth > MAX_SPEC_DEPTH
        or not isinstance(node.func, ast.Name)
        or any(k.arg is None for k in node.keywords)
    ):
        raise ValueError
    values = {keyword.arg: _value(keyword.value, depth) for keyword in node.keywords if keyword.arg}
    if len(values) < len(node.keywords):
        raise InvalidValueError(
            f"a parameter of {node.func.id!r} is given twice in a schedule spec"
        )
    return node.func.id, [_value(argument, depth) for argument in node.args], values


def _value(node: ast.expr, depth: int) -> Any:
    if isinstance(node, ast.Call):
        return build(*_call(node, depth + 1))
    if isinstance(node, ast.Name):  # sine as sine()
        return build(*_call(ast.Call(node, [], []), depth + 1))
    return ast.literal_eval(node)
