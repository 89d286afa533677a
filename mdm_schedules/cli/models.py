"""The command demo, and how commands load a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mdm_schedules.cli.common import Command, positive, show_result
from mdm_schedules.errors import (
    InvalidValueError,
    MDMError,
    MissingExtraError,
    StorageError,
    did_you_mean,
)


def load_model(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model that the arguments of `add_model_arguments` name, and its tokenizer."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from mdm_schedules import demo_models
    from mdm_schedules.integrations.transformers import AutoModelForMaskedDiffusion
    from mdm_schedules.registry import schedule_for_steps

    logging.disable_progress_bar()
    _check_device(args.device)
    _check_dtype(args.dtype)
    path = str(demo_models.path(args.model)) if args.model in demo_models.NAMES else args.model
    remote = {"trust_remote_code": True} if args.trust_remote_code else {}
    steps = args.steps if isinstance(args.steps, int) else None  # tune takes several
    schedule = None if args.schedule is None else schedule_for_steps(args.schedule, steps)
    try:
        model = AutoModelForMaskedDiffusion.from_pretrained(
            path, schedule=schedule, dtype=args.dtype, **remote
        )
        return model.to(args.device), AutoTokenizer.from_pretrained(path, **remote)
    # ImportError: what code of the model needs
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if isinstance(error, MDMError):
            raise
        raise StorageError(f"cannot load {args.model}: {str(error).splitlines()[0]}") from error


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name)
    # what torch raises depends on its build
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError(
            f"--device {name} cannot be used here: {reason}; --device cpu always can"
        ) from error


def _check_dtype(name: str) -> None:
    import torch

    known = ("auto", "float32", "float16", "bfloat16", "float64")
    dtype = getattr(torch, name, None)
    if name != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InvalidValueError(
            f"--dtype must be a floating type of torch, got {name!r}.{did_you_mean(name, known)}"
        )


def add_model_arguments(command: argparse.ArgumentParser) -> None:
    """What `load_model` reads."""
    command.add_argument(
        "--model", default="code", help="folder or Hub id, or a shipped one: code, sudoku"
    )
    command.add_argument("--schedule", help="default: the model's own, else linear")
    command.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    command.add_argument(
        "--dtype", default="auto", help="such as bfloat16 (default: that of the files)"
    )
    command.add_argument(
        "--trust-remote-code", action="store_true", help="run the model code in its repository"
    )


def _demo(args: argparse.Namespace) -> None:
    from mdm_schedules import demo
    from mdm_schedules.plotting import check_picture, plot_quality
    from mdm_schedules.registry import get_schedule

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
        plot_quality(schedules, table, picture, ylabel="6x6 Sudokus completed to a valid grid")
        if not args.json:
            print(f"Picture: {picture}")


def add(command: Command) -> None:
    """Add the commands of this module."""
    demo = command(
        "demo",
        _demo,
        "Write code and solve Sudokus with the shipped models under several schedules.",
    )
    demo.add_argument("--schedule", action="append", help="a schedule to compare, may be repeated")
    demo.add_argument(
        "--puzzles", type=positive, default=200, help="Sudokus per cell of the table (default 200)"
    )
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("mdm-schedules-demo.png"),
        help="where to save the picture",
    )
