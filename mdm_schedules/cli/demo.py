"""The command demo."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mdm_schedules.cli.command import Command
from mdm_schedules.cli.common import positive, show_result
from mdm_schedules.errors import MissingExtraError


def _demo(args: argparse.Namespace) -> None:
    from mdm_schedules.demo import tasks as demo
    from mdm_schedules.lookup import get_schedule
    from mdm_schedules.plotting import PlottedCurve, check_picture, plot_quality
    from mdm_schedules.schedules.curves import PLOT_TIMES

    picture: Path | None = args.output
    try:
        check_picture(args.output)
    except MissingExtraError as error:
        picture = None
        print(f"no picture: {error}", file=sys.stderr)
    schedules = [get_schedule(spec) for spec in args.schedule or demo.SCHEDULES]
    specs = [schedule.spec for schedule in schedules]
    texts = {
        spec: [
            demo.write_code(spec, prompt, steps=32, new_tokens=88, seed=args.seed)
            for prompt in demo.PROMPTS
        ]
        for spec in (specs[0], specs[-1])
    }
    if not args.json:
        print(
            "Python written by the shipped 0.8M-parameter byte model, 88 tokens in 32 passes, "
            "random order:\n"
        )
        for spec, written in texts.items():
            print(f"--- {spec}")
            print("\n".join(line for text in written for line in (*text.splitlines(), "")))
    options = {"puzzles": args.puzzles, "seed": args.seed, **demo.TASK}
    table = demo.accuracy_table(specs, demo.STEPS, **options)
    title = f"Valid grids of {args.puzzles} held-out 6x6 Sudokus, percent with one standard error"
    text = f"{title}\n({demo.TASK_TEXT}):\n\n{demo.format_table(table)}\n"
    data = {
        "texts": texts,
        "task": options,
        "accuracy": table,
        "picture": None if picture is None else str(picture),
    }
    show_result(args, data, text)
    if picture is not None:  # last, so that the figures are there whatever becomes of it
        curves = [PlottedCurve(one.label, one.alpha(PLOT_TIMES)) for one in schedules]
        ylabel = "6x6 Sudokus completed to a valid grid"
        plot_quality(PLOT_TIMES, curves, table, picture, ylabel=ylabel)
        if not args.json:
            print(f"Picture: {picture}")


def add(command: Command) -> None:
    """Add the commands of this module."""
    demo = command(
        "demo",
        _demo,
        "Write code and solve Sudokus with the shipped models under several schedules.",
    )
    demo.add_argument(
        "--schedule",
        action="append",
        help="a schedule to compare, may be repeated (default: linear, and some others)",
    )
    demo.add_argument("--puzzles", type=positive, default=200, help="Sudokus per cell of the table")
    demo.add_argument("--seed", type=int, default=0, help="of the puzzles and the noise")
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("mdm-schedules-demo.png"),
        help="where to save the picture",
    )
    demo.example("demo", "demo --schedule linear --schedule 'beta(a=0.9, b=0.3)' --puzzles 50")
