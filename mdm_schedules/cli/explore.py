"""The command explore: a page with sliders, as a file or as a Space on the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdm_schedules.checks import check_int
from mdm_schedules.cli.command import Command, CommandParser
from mdm_schedules.cli.common import (
    add_sampling_arguments,
    load_model,
    positive,
    refuse_idle,
    sampling_options,
    show_result,
)

if TYPE_CHECKING:
    from mdm_schedules.explorer import Recording


def _explore(args: argparse.Namespace) -> None:
    from mdm_schedules.explorer import explore_page
    from mdm_schedules.explorer.page import MOST_STEPS
    from mdm_schedules.files import check_output, write_output
    from mdm_schedules.information import InformationProfile

    pushed, written = args.push is not None, args.output is not None
    path = None if pushed and not written else check_output(args.output if written else DEFAULT)
    profiles = {}
    for folder in args.profile or ():
        profile = InformationProfile.from_pretrained(folder)
        profiles[folder.expanduser().resolve().name] = profile
    options: dict[str, Any] = {"num_tokens": args.num_tokens, "profiles": profiles}
    if args.page_steps is not None:
        options["steps"] = check_int("--page-steps", args.page_steps, 1, MOST_STEPS)
    explore_page(args.start, **options)  # what is wrong with these is said before a model runs
    page = explore_page(args.start, recordings=_recordings(args), **options)
    done: dict[str, Any] = {"bytes": len(page.encode())}
    told = []
    if path is not None:
        write_output(path, page.encode())
        done["page"] = str(path)
        told.append(f"Page: {path} ({done['bytes']:,} bytes); open it in a browser")
    if pushed:
        from mdm_schedules.hub import push_page

        done["url"] = push_page(page, args.push).commit_url
        told.append(f"Pushed: {done['url']}")
    show_result(args, done, "\n".join(told))


DEFAULT = Path("mask-schedules.html")
_WITHOUT_A_RUN = {"output", "push", "start", "num_tokens", "page_steps", "profile", "json"}
_WITHOUT_A_RUN |= {"no_recording"}


def _recordings(args: argparse.Namespace) -> list[Recording]:
    if args.record is None:
        refuse_idle(args, vars(args).keys() - _WITHOUT_A_RUN, "--record")
        from mdm_schedules.demo.recordings import code_recording, sudoku_recording

        return [] if args.no_recording else [sudoku_recording(), code_recording()]
    from mdm_schedules.explorer import record

    schedules = args.under or ["linear", "sine"]
    args.schedule = None  # of the model; the runs have their own
    model, tokenizer = load_model(args)
    options = {"mask_token_id": tokenizer.mask_token_id, **sampling_options(args)}
    steps = options.pop("steps", None)
    return [
        record(
            model,
            tokenizer,
            prompt,
            schedules,
            steps=steps,
            seed=args.seed,
            add_special_tokens=args.special_tokens,
            **options,
        )
        for prompt in args.record
    ]


def add(command: Command) -> None:
    """Add the commands of this module."""
    explore: CommandParser = command(
        "explore", _explore, "Write a page with sliders for schedules; it needs no network."
    )
    explore.add_argument("--output", type=Path, help=f"HTML file to write (default: {DEFAULT})")
    explore.add_argument(
        "--push", metavar="USER/SPACE", help="publish it as a static Space (default: only a file)"
    )
    explore.add_argument(
        "--start", metavar="BETA", default="beta(a=0.9, b=0.3)", help="where the sliders start"
    )
    explore.add_argument("--num-tokens", type=positive, default=256, help="where tokens start")
    explore.add_argument(
        "--page-steps", type=positive, metavar="STEPS", help="where passes start (default: 16)"
    )
    explore.add_argument(
        "--profile",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="an information profile of yours, may be repeated (default: those in the page)",
    )
    runs = explore.add_argument_group("a recorded run")
    runs.add_argument(
        "--record",
        action="append",
        metavar="PROMPT",
        help="run --model on this prompt and play the passes, may be repeated (default: a Sudoku)",
    )
    runs.add_argument("--no-recording", action="store_true", help="leave the Sudoku out")
    runs.add_argument(
        "--under",
        action="append",
        metavar="SCHEDULE",
        help="a schedule to run, may be repeated (default: linear and sine)",
    )
    runs.add_argument(
        "--model", default="code", help="folder or Hub id, or a shipped one: code, sudoku"
    )
    runs.add_argument("--device", default="cpu", help="such as cuda")
    runs.add_argument("--dtype", default="auto", help="such as bfloat16 (default: the files')")
    runs.add_argument(
        "--trust-remote-code", action="store_true", help="run the model code in its repository"
    )
    runs.add_argument("--seed", type=int, default=0, help="of the noise")
    runs.add_argument(
        "--special-tokens", action="store_true", help="let the tokenizer add its special tokens"
    )
    add_sampling_arguments(explore, without=("plan",))
    explore.example(
        "explore",
        "explore --profile my-profile --push user/mask-schedules",
        "explore --record 'def f(' --max-new-tokens 48 --steps 12 --under linear --under sine",
    )
