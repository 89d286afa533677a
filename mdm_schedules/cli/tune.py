"""The command that finds a schedule: tune."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mdm_schedules.checks import check_int
from mdm_schedules.cli.command import Command, CommandParser
from mdm_schedules.cli.common import (
    add_model_arguments,
    add_sampling_arguments,
    check_device,
    load_model,
    positive,
    refuse_idle,
    sampling_options,
    show_result,
)
from mdm_schedules.cli.signals import same_command
from mdm_schedules.cli.verdict import sentence
from mdm_schedules.errors import FormatError, InvalidValueError
from mdm_schedules.files import check_output, check_output_folder
from mdm_schedules.prompt_files import check_prompt_file, parse_line, prompt_lines

_DECIDED = ("steps", "num_return_sequences")  # by tuning itself, or by what it counts on


def _tune(args: argparse.Namespace) -> None:
    from mdm_schedules.tuning import tune

    if args.limit is not None:
        check_int("--limit", args.limit, 1)
    if args.method == "profile":
        refuse_idle(args, ("n_trials",), "a search; a profile tries what it predicts")
    # Hours of tuning must not end at a folder that cannot be written.
    output = None if args.output is None else check_output_folder(args.output)
    report = None if args.report is None else check_output(args.report, make=True)
    objective = _objective(args)
    found = tune(
        objective,
        n_trials=args.n_trials,
        seed=args.seed,
        method=args.method or _method(args, objective),
        baselines=_baselines(args),
        space=args.space,
        steps=args.steps,
        max_passes=args.max_passes,
        screening=args.screening,
        storage=args.storage,
        progress=True,
    )
    lines = [
        found.table(steps, rows=args.rows) + "\n" for steps in found.choices if steps is not None
    ]
    if args.space == "schedule+commit":
        lines.append(found.front_table() + "\n")
    lines += [found.verdict(steps) for steps in found.choices]
    # A bound on the passes may have taken the place of the steps.
    tuned = [steps for steps in found.choices if steps is not None]
    task, model = args.task or objective.name, None if objective.model_name else args.model
    if output is not None:
        for steps in tuned:
            folder = output / f"{steps}-steps" if len(tuned) > 1 else output
            found.save_pretrained(folder, steps, model=model, task=task)
        lines.append(f"Saved in {output}")
    if report is not None:
        lines.append(f"Report: {found.report(report)}")
    if args.push:
        for steps in tuned:
            done = found.push_to_hub(args.push, steps, model=model, task=task)
            lines.append(f"Pushed: {done.pr_url or done.commit_url}")
    plain = [sentence(found, steps, _saved(args, steps)) for steps in tuned]
    told = {**found.to_json(), "sentences": plain}
    show_result(args, told, "\n".join([*lines, "", *plain]))


def _baselines(args: argparse.Namespace) -> list[Any]:
    """The schedule in use, if it was given, and linear."""
    if args.schedule is None:
        return ["linear"]
    from mdm_schedules.lookup import schedule_for_steps

    steps = args.steps[0] if len(args.steps) == 1 else None
    return [schedule_for_steps(args.schedule, steps), "linear"]


def _method(args: argparse.Namespace, objective: Any) -> str | None:
    """A profile predicts schedules alone; other spaces, and so many trials, are of a search."""
    profiles = args.space == "schedule" and objective.estimate_profile is not None
    return "profile" if profiles and args.n_trials is None else None


def _saved(args: argparse.Namespace, steps: int) -> str | None:
    """Where the winner at `steps` is found again, if it was saved or published."""
    if args.output is None:
        return None if args.push is None else str(args.push)
    return str(args.output / f"{steps}-steps" if len(args.steps) > 1 else args.output)


def _objective(args: argparse.Namespace) -> Any:
    from mdm_schedules.demo import tasks as demo
    from mdm_schedules.tuning import GenerationObjective

    if args.lm_eval_task is not None:
        refuse_idle(args, ("clues", "special_tokens"), "instances of the command's own")
        return _lm_eval_objective(args)
    refuse_idle(args, ("include_path",), "--lm-eval-task")
    options = {"batch_size": args.batch_size, **sampling_options(args, _DECIDED)}
    if args.instances is None:
        if args.model != "sudoku":
            raise InvalidValueError(
                'give a JSONL file of {"prompt": ..., "answer": ...}, '
                "or try --model sudoku, which has instances"
            )
        if args.metric is not None:
            raise InvalidValueError(
                "--model sudoku has a metric of its own, valid_grid; leave --metric out"
            )
        refuse_idle(args, ("special_tokens", "dtype", "trust_remote_code"), "a file of instances")
        check_device(args.device)
        demo.load("sudoku")[0].to(args.device)
        return demo.sudoku_objective(
            400 if args.limit is None else args.limit, clues=args.clues, **options
        )
    refuse_idle(args, ("clues",), "the Sudokus of --model sudoku")
    instances = read_instances(args.instances)[: args.limit]
    model, tokenizer = load_model(args)
    return GenerationObjective(
        model,
        instances,
        args.metric or "exact_match",
        tokenizer=tokenizer,
        name=args.task or args.instances.stem,
        add_special_tokens=args.special_tokens,
        **{"mask_token_id": tokenizer.mask_token_id, **options},
    )


def _lm_eval_objective(args: argparse.Namespace) -> Any:
    from mdm_schedules.integrations.lm_eval import lm_eval_objective

    if args.instances is not None:
        raise InvalidValueError("give either a file of instances or --lm-eval-task")
    model, tokenizer = load_model(args)
    return lm_eval_objective(
        model,
        tokenizer,
        args.lm_eval_task,
        metric=args.metric,
        limit=args.limit,
        include_path=None if args.include_path is None else str(args.include_path),
        batch_size=args.batch_size,
        **sampling_options(args, _DECIDED),
    )


def read_instances(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, each with a "prompt"; an error names the line."""
    path, found = check_prompt_file(path), []
    for number, line in prompt_lines(path):
        try:
            row = parse_line(line, jsonl=True)
        except FormatError as error:
            raise FormatError(f"{path}, line {number}: {error}") from None
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("prompt"), str)
            or "answer" not in row
        ):
            raise FormatError(
                f'{path}, line {number}: must be {{"prompt": "...", "answer": "..."}}'
            )
        found.append(row)
    if not found:
        raise FormatError(
            f'{path} is empty; it needs lines like {{"prompt": "...", "answer": "..."}}'
        )
    return found


def _kept(args: argparse.Namespace) -> str:
    if args.storage is None:
        return "nothing is kept; --storage study.db keeps finished trials"
    return f"finished trials are kept in {args.storage}; {same_command(args.argv)}"


def add(command: Command) -> None:
    """Add the command of this module."""
    tune: CommandParser = command(
        "tune",
        _tune,
        "Find a schedule for a model, a task and a number of steps, without training.",
    )
    tune.add_argument(
        "instances",
        nargs="?",
        type=Path,
        help='JSONL of {"prompt": ..., "answer": ...} (default: those of --model sudoku)',
    )
    tune.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        required=True,
        help="forward passes, one number or several",
    )
    add_model_arguments(tune, "linear; it stays unless another is shown to be better")
    tune.add_argument(
        "--n-trials", type=int, help="candidates; asks for a search (default: 60; of grid 100)"
    )
    tune.add_argument(
        "--lm-eval-task",
        metavar="TASK",
        help="tune on a task of lm-eval that generates (default: on the file)",
    )
    tune.add_argument("--include-path", type=Path, help="folder with tasks (default: lm-eval's)")
    tune.add_argument(
        "--special-tokens", action="store_true", help="let the tokenizer add its special tokens"
    )
    tune.add_argument("--batch-size", type=int, default=32, help="instances in one pass")
    tune.add_argument("--limit", type=int, help="use the first instances only (default: all)")
    tune.add_argument("--clues", type=int, default=12, help="of the Sudokus of --model sudoku")
    tune.add_argument("--screening", type=int, default=64, help="instances of the first round")
    tune.add_argument("--seed", type=int, default=0, help="of proposals and order of instances")
    tune.add_argument(
        "--storage",
        help="keep the study in study.db, study.journal or at a URL; the same call goes on "
        "(default: in memory)",
    )
    tune.add_argument(
        "--task", help="its name, for the report and the Hub (default: that of the file)"
    )
    tune.add_argument("--rows", type=positive, default=12, help="of the tables")
    tune.add_argument(
        "--output", type=Path, help="folder for the schedule and tuning.json (default: none)"
    )
    tune.add_argument("--report", type=Path, help="HTML file to write (default: none)")
    tune.add_argument(
        "--push", metavar="USER/REPO", help="publish the winners on the Hub (default: do not)"
    )
    tune.later(lambda: _add_methods(tune))
    add_sampling_arguments(tune, _DECIDED)
    tune.set_defaults(kept=_kept)
    tune.example(
        "tune --model sudoku --steps 6 --limit 100 --output found",
        "tune --model sudoku --steps 8 --space schedule+commit --n-trials 40",
        "tune mine.jsonl --model folder --steps 8 16 --max-new-tokens 64 --storage study.db",
        "tune --lm-eval-task gsm8k --model GSAI-ML/LLaDA-8B-Instruct --trust-remote-code "
        "--device cuda --max-new-tokens 128 --steps 32 --method tpe --limit 200",
    )


def _add_methods(tune: CommandParser) -> None:
    from mdm_schedules.tuning.objectives.generation import METRICS
    from mdm_schedules.tuning.search import METHODS
    from mdm_schedules.tuning.spaces import SPACES

    tune.add_argument(
        "--method",
        choices=["profile", *METHODS],
        help="default: profile, by far the cheapest, for schedules where it can be measured; "
        "cmaes for plans; else tpe",
    )
    tune.add_argument(
        "--space",
        choices=SPACES,
        default="schedule",
        help="what is tuned: (a, b), with remasking or a commit rule beside it, or whole plans",
    )
    tune.add_argument(
        "--max-passes",
        type=float,
        help="mean passes that a commit rule may spend (default: --steps)",
    )
    tune.add_argument(
        "--metric",
        help=f"{', '.join(sorted(METRICS))} (default: exact_match), or a metric of the task",
    )
