"""The command demo: a puzzle filled under two schedules, what that is worth, and a text model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdm_schedules.checks import check_real
from mdm_schedules.cli.command import Command
from mdm_schedules.cli.common import positive, show_result
from mdm_schedules.errors import InvalidValueError

if TYPE_CHECKING:
    from mdm_schedules.explorer import Recording

FORMATS = (".html", ".gif", ".png")
SHOWN = 3  # gaps of each kind


def _demo(args: argparse.Namespace) -> None:
    from mdm_schedules.demo import tasks as demo
    from mdm_schedules.demo.recordings import sudoku_recording
    from mdm_schedules.demo.terminal import play
    from mdm_schedules.lookup import get_schedule

    _check_output(args.output)
    check_real("--pause", args.pause, 0)
    specs = [get_schedule(spec).spec for spec in args.schedule or demo.SCHEDULES]
    # what was asked for last is compared with what was asked for first; by default sine with linear
    pair = (specs[0], specs[-1]) if len(specs) > 1 else (specs[0],)
    recording = sudoku_recording(pair)
    if not args.json:
        print(f"The same model, the same puzzle, {recording.runs[0].passes} passes each:\n")
        play(recording, args.pause)
    options = {"puzzles": args.puzzles, "seed": args.seed, **demo.TASK}
    table = demo.accuracy_table(specs, demo.STEPS, **options)
    title = f"{args.puzzles} held-out 6x6 Sudokus: percent solved, with one standard error"
    if not args.json:
        print(f"{title}\n({demo.TASK_TEXT}):\n\n{demo.format_table(table)}\n")
    gaps = {kind: [_gap(demo, *gap) for gap in found] for kind, found in demo.gaps().items()}
    rates = {kind: demo.gap_rates(found) for kind, found in gaps.items()}
    if not args.json:
        print("Gaps in Python the model has not seen, half as many passes as tokens, linear:\n")
        print("\n\n".join(_told(gap) for found in gaps.values() for gap in found[:SHOWN]))
        print(f"\n{demo.format_rates(rates, len(gaps['line']))}")
    data = {
        "task": options,
        "accuracy": table,
        "gaps": gaps,
        "gap_rates": rates,
        "output": None if args.output is None else str(args.output),
    }
    if args.json:
        show_result(args, data, "")
    sys.stdout.flush()
    if args.output is not None:  # last, so that the figures are there whatever becomes of it
        _save(args.output, recording, table, title, specs)
        if not args.json:
            print(f"\nSaved: {args.output}")
    elif not args.json:
        print("\nNext: mdm-schedules explore writes a page with sliders; mdm-schedules tune finds")
        print("the schedule for your own model; mdm-schedules demo --output demo.gif keeps this.")


def _gap(demo: Any, before: str, hidden: str, after: str) -> dict[str, Any]:
    parts = before, hidden, after
    text, tokens, passes = demo.fill_gap(demo.GAP_SCHEDULE, *parts, share=demo.GAP_SHARE)
    return {
        "before": before,
        "hidden": hidden,
        "after": after,
        "filled": text,
        "tokens": tokens,
        "passes": passes,
    }


def _told(gap: Mapping[str, Any]) -> str:
    """The lines of the gap, with its text in brackets, and what was written there."""
    before, after = gap["before"].rpartition("\n")[2], gap["after"].partition("\n")[0]
    number = gap["before"].count("\n")
    lines = gap["filled"].split("\n")
    written = lines[number] if number < len(lines) else ""
    return f"  hidden   {before}[{gap['hidden']}]{after}\n  written  {written}"


def _check_output(path: Path | None) -> None:
    """Before the work: the format is one of ours, and the file can be written."""
    if path is None:
        return
    from mdm_schedules.files import check_output
    from mdm_schedules.plotting import check_picture

    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise InvalidValueError(
            f"the name must end in one of {', '.join(FORMATS)}, got {path}; for example demo.html"
        )
    if kind == ".png":
        check_picture(path)  # which also says what to install where matplotlib is missing
    else:
        check_output(path)


def _save(
    path: Path,
    recording: Recording,
    table: Mapping[str, Mapping[int, tuple[float, float]]],
    title: str,
    specs: list[str],
) -> None:
    from mdm_schedules.demo.animation import gif
    from mdm_schedules.demo.recordings import code_recording
    from mdm_schedules.explorer import Table, explore_page
    from mdm_schedules.files import check_output, write_output
    from mdm_schedules.lookup import get_schedule
    from mdm_schedules.plotting import PlottedCurve, plot_quality
    from mdm_schedules.schedules.curves import PLOT_TIMES

    kind = path.suffix.lower()
    if kind == ".png":
        schedules = [get_schedule(spec) for spec in specs]
        curves = [PlottedCurve(one.label, one.alpha(PLOT_TIMES)) for one in schedules]
        plot_quality(PLOT_TIMES, curves, table, path, ylabel="6x6 Sudokus solved")
        return
    if kind == ".gif":
        write_output(
            check_output(path), gif(recording, "same model, same puzzle, same number of passes")
        )
        return
    steps = sorted({step for row in table.values() for step in row})
    head = ("schedule", *(f"{step} passes" for step in steps))
    rows = tuple(
        (spec, *(f"{100 * row[step][0]:.1f} ± {100 * row[step][1]:.1f}" for step in steps))
        for spec, row in table.items()
    )
    page = explore_page(recordings=[recording, code_recording()], table=Table(title, head, rows))
    write_output(check_output(path), page.encode())


def add(command: Command) -> None:
    """Add the commands of this module."""
    demo = command(
        "demo",
        _demo,
        "Fill a Sudoku under two schedules, pass by pass, and measure what the schedule is worth.",
    )
    demo.add_argument(
        "--schedule",
        action="append",
        help="a schedule to compare, may be repeated (default: linear, cosine and sine)",
    )
    demo.add_argument("--puzzles", type=positive, default=100, help="Sudokus per cell of the table")
    demo.add_argument("--seed", type=int, default=0, help="of the puzzles and the noise")
    demo.add_argument(
        "--pause", type=float, default=0.3, help="seconds between passes, on a terminal"
    )
    demo.add_argument(
        "--output",
        type=Path,
        help="demo.html, demo.gif or demo.png to save it in (default: nothing is saved)",
    )
    demo.example("demo", "demo --output demo.gif", "demo --schedule linear --schedule 'sine'")
