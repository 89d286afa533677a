"""The command list: everything that has a name here, what it does, and each schedule's curve."""

from __future__ import annotations

import argparse
import inspect
import sys
import textwrap
from typing import Any

from mdm_schedules.cli.command import Command
from mdm_schedules.cli.common import show_result
from mdm_schedules.errors import MDMError

KINDS = {
    "schedules": "Schedules: alpha(t), the share of tokens revealed at t from 0 to 1",
    "policies": "Policies: which positions are revealed first (--remasking)",
    "commits": "Commit rules: when a pass reveals more than the plan (--commit)",
    "models": "Model adapters, by model type (--adapter)",
    "presets": "Presets: schedules that the paper tuned (--schedule preset:NAME, with --steps)",
}
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-~=+*#"
WIDTH = 100


def _list(args: argparse.Namespace) -> None:
    if wrong := [kind for kind in args.kinds if kind not in KINDS]:
        args.usage(f"KIND must be {', '.join(KINDS)}; got {wrong[0]!r}")
    kinds = args.kinds or list(KINDS)
    rows = {kind: _rows(kind) for kind in KINDS if kind in kinds}
    parts = []
    for kind, found in rows.items():
        width = max((len(row["name"]) for row in found), default=0)
        lines = [line for row in found for line in _lines(row, width)]
        parts.append("\n".join([KINDS[kind], *lines]))
    show_result(args, [row for found in rows.values() for row in found], "\n\n".join(parts))


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind == "presets":
        from mdm_schedules.presets import PREFIX, list_presets

        return [
            {
                "kind": kind,
                "name": PREFIX + preset.name,
                "source": preset.source,
                "target": f"best of {len(preset.rows)} schedules at steps "
                f"{', '.join(map(str, preset.steps))}",
                "about": preset.settings,
            }
            for preset in list_presets()
        ]
    registry = _registry(kind)
    rows = []
    for entry in registry.entries():
        row = {"kind": kind, "name": entry.name, "source": entry.source, "target": entry.target}
        try:
            cls = registry.get(entry.name)
        except MDMError as error:  # one broken package hides no other
            rows.append({**row, "about": str(error)})
            continue
        rows.append({**row, "about": _about(cls)})
        if kind == "schedules" and (example := _example(cls, registry.example)) is not None:
            times = [i / 16 for i in range(1, 17)]
            rows[-1] |= {"curve": example.alpha(times).tolist(), "curve_of": example.spec}
    return rows


def _registry(kind: str) -> Any:
    if kind == "schedules":
        from mdm_schedules.schedules.base import schedules

        return schedules
    if kind == "models":
        from mdm_schedules.models import models

        return models
    from mdm_schedules.sampling.commits import commits
    from mdm_schedules.sampling.policies import policies

    return policies if kind == "policies" else commits


def _about(cls: type) -> str:
    """The first paragraph of its docstring: formula and use."""
    text = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    return " ".join(text.split()) or "(no description)"


def _example(cls: type, spec: str) -> Any:
    """An instance to draw: by its defaults, else the registry's own example; None without one."""
    from mdm_schedules.lookup import get_schedule

    try:
        return cls()
    except Exception:  # it needs parameters
        name = getattr(cls, "name", None)
        return get_schedule(spec) if spec.startswith(f"{name}(") else None


def curve(values: list[float], encoding: str | None) -> str:
    """Values in [0, 1] as a small picture, in ASCII where the encoding has no blocks."""
    marks = BLOCKS
    try:
        BLOCKS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        marks = ASCII
    return "".join(marks[min(7, max(0, int(value * 8)))] for value in values)


def _lines(row: dict[str, Any], width: int) -> list[str]:
    picture = ""
    about = row["about"]
    if row["kind"] == "presets":
        about = f"{row['target']}; {about} ({row['source']})"
    elif row["kind"] == "schedules":
        # A schedule without defaults has no curve; blanks keep the columns.
        values = row.get("curve")
        picture = curve(values, sys.stdout.encoding) if values else " " * 16
        picture += "  "
        if values and row["curve_of"].partition("(")[2] != ")":
            about += f" Shown: {row['curve_of']}."
    if row["source"] != "mdm-schedules" and row["kind"] != "presets":
        about += f" ({row['source']})"
    head = f"  {row['name']:<{width}}  {picture}"
    return textwrap.wrap(
        about,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
    )


def add(command: Command) -> None:
    """Add the command of this module."""
    sub = command(
        "list", _list, "List schedules, policies, commit rules, model adapters and presets."
    )
    sub.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} (default: all of them)"
    )
    sub.example("list", "list schedules presets", "list --json")
