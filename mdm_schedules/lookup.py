"""One string, several sources: a name, a spec, a preset, a file, or a repository on the Hub.

get_schedule("beta(a=0.9, b=0.3)")   get_schedule("preset:llada-8b/mbpp", steps=16)
get_schedule("user/repo")            get_schedule("hub:user/repo")   # the same, never a folder
get_schedule("folder/")              get_schedule("file:folder")     # the same, never the Hub
"""

from __future__ import annotations

import inspect
import os
import re
from typing import Any

from mdm_schedules.checks import shown
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    PluginError,
    SeveralSchedulesError,
)
from mdm_schedules.hub import find_record
from mdm_schedules.presets import PREFIX, preset_schedule
from mdm_schedules.registry import Entry
from mdm_schedules.schedules.base import Schedule, schedules


def list_schedules() -> list[Entry]:
    """The schedule names that `get_schedule` knows, each with the package it comes from.

    Loads none of them.
    """
    return schedules.entries()


def register_schedule(cls: type[Schedule]) -> type[Schedule]:
    """Make a Schedule subclass reachable by its `name` in this process.

    A package uses an entry point instead.
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
            Schedule, returned as it is. The prefixes "hub:" and "file:" say which of the two a
            name with "/" is.

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
    if isinstance(spec, str) and spec.strip().startswith(PREFIX):
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
        return Schedule.from_pretrained(_place(spec), **params)
    if not isinstance(spec, str):
        raise InvalidTypeError(
            f"a schedule must be a name, a spec string, a folder or a Schedule, got {shown(spec)}; "
            "for example get_schedule('beta(a=0.9, b=0.3)')"
        )
    return schedules.read(spec, **params)


def schedule_for_steps(
    spec: str | os.PathLike[str] | Schedule, steps: int | None, **params: Any
) -> Schedule:
    """`get_schedule` where the number of passes is known: it chooses among several schedules."""
    # A preset is a table by steps; one with its own "(steps=...)" has chosen already.
    if steps is not None and isinstance(spec, str) and re.fullmatch(r"\s*preset:[^(]*", spec):
        return get_schedule(spec, steps=steps, **params)
    try:
        return get_schedule(spec, **params)
    except SeveralSchedulesError:
        if steps is None:
            raise
        return get_schedule(spec, steps=steps, **params)


def find_schedule(model: str | os.PathLike[str], **options: Any) -> Schedule | None:
    """The schedule that a model's own folder or Hub repository carries; None without one.

    Args:
        model: folder or Hub id.
        **options: subfolder, and what huggingface_hub takes: revision, cache_dir, token, ...

    Raises:
        FormatError: there is one, and it is broken.
    """
    record = find_record(model, **options)
    return None if record is None else Schedule.from_record(record)


def _is_path(text: str) -> bool:
    if text.startswith((".", "/", "~", "\\", "hub:", "file:")):
        return True
    # A spec may hold a path in quotes, and is no path for it.
    if "(" in text:
        return False
    # a folder that happens to be called 'linear' does not hide the schedule of that name
    return "/" in text or os.sep in text or (os.path.isdir(text) and text not in schedules)


def _place(spec: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """What `Schedule.from_pretrained` takes for a path, a Hub id, or one of these with a prefix."""
    if isinstance(spec, str) and spec.startswith("file:"):
        return os.path.abspath(os.path.expanduser(spec.removeprefix("file:")))
    return spec
