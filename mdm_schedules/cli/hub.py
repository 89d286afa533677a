"""Commands about schedules on the Hub: push, pull, search."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mdm_schedules.cli.command import Command
from mdm_schedules.cli.common import in_shell_words, positive, scored, show_result
from mdm_schedules.errors import StorageError


def _push(args: argparse.Namespace) -> None:
    from mdm_schedules.files import read_json
    from mdm_schedules.hub import Evaluation
    from mdm_schedules.lookup import get_schedule

    if args.evaluation and not args.evaluation.is_file():
        raise StorageError(
            f"no evaluation file at {args.evaluation}; it is JSON with model, task, steps, metric "
            "and value"
        )
    done = get_schedule(args.schedule).push_to_hub(
        args.repo,
        evaluation=Evaluation.from_json(read_json(args.evaluation)) if args.evaluation else None,
        subfolder=args.subfolder,
        revision=args.revision,
        private=args.private or None,
        commit_message=args.message,
        create_pr=args.create_pr,
    )
    url = done.pr_url or done.commit_url
    show_result(args, {"url": url, "commit": done.oid}, f"Pushed: {url}")


def _pull(args: argparse.Namespace) -> None:
    from mdm_schedules.schedules import Schedule

    with in_shell_words():
        schedule = Schedule.from_pretrained(
            args.repo,
            revision=args.revision,
            subfolder=args.subfolder,
            task=args.task,
            steps=args.steps,
            force_download=args.force_download,
        )
    folder = args.output or Path(args.repo.partition("@")[0].rpartition("/")[2])
    schedule.save_pretrained(folder)
    evaluation = schedule.evaluation
    data = {
        "folder": str(folder),
        "schedule": schedule.spec,
        "evaluation": evaluation and evaluation.to_json(),
    }
    score = f"\n{scored(evaluation)}" if evaluation else ""
    show_result(args, data, f"{schedule!r:.200}{score}\nSaved in {folder}")


def _search(args: argparse.Namespace) -> None:
    from mdm_schedules.hub import search_schedules

    rows = search_schedules(
        args.base_model, task=args.task, author=args.author, search=args.search, limit=args.limit
    )
    lines = []
    for row in rows:
        lines.append(
            f"{row.repo_id}  for {', '.join(row.base_models) or 'any model'}  "
            f"({row.downloads} downloads)"
        )
        lines += [f"    {scored(evaluation)}" for evaluation in row.evaluations]
    data = [
        {
            **dataclasses.asdict(row),
            "evaluations": [evaluation.to_json() for evaluation in row.evaluations],
        }
        for row in rows
    ]
    show_result(args, data, "\n".join(lines) or "Nothing fits; search with fewer words.")


def add(command: Command) -> None:
    """Add the commands of this module."""
    push = command("push", _push, "Publish a schedule on the Hub.")
    push.add_argument("schedule", help="folder, spec, or Hub id")
    push.add_argument("repo", help="user/repo, made if missing")
    push.add_argument(
        "--evaluation",
        type=Path,
        help="JSON file: model, task, steps, metric, value, ... (default: the schedule's own)",
    )
    push.add_argument("--private", action="store_true", help="if the repository is new")
    push.add_argument("--message", help="of the commit (default: written from the schedule)")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    push.example(
        "push found user/my-schedule", "push 'beta(a=0.9, b=0.3)' user/repo --evaluation eval.json"
    )

    pull = command("pull", _pull, "Save a schedule from the Hub in a folder.")
    pull.add_argument("repo", help="user/repo or user/repo@revision")
    pull.add_argument(
        "--steps",
        type=positive,
        help="take the one tuned for the nearest number of steps (default: the only one)",
    )
    pull.add_argument("--output", type=Path, help="folder (default: the name of the repository)")
    pull.add_argument("--force-download", action="store_true", help="ask the Hub again for all")
    pull.example("pull user/repo --steps 16 --output found")

    search = command("search", _search, "Find schedules on the Hub.")
    search.add_argument("search", nargs="?", help="part of the name (default: any)")
    search.add_argument("--base-model", help="Hub id of the model it is for (default: any)")
    search.add_argument("--author", help="user or organisation (default: any)")
    search.add_argument("--limit", type=positive, default=20, help="show so many at most")
    search.example("search --base-model GSAI-ML/LLaDA-8B-Instruct --task gsm8k")
    for sub in (push, pull):
        sub.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
        sub.add_argument("--subfolder", help="folder in the repository (default: its top)")
    for sub in (pull, search):
        sub.add_argument("--task", help="such as gsm8k (default: any)")
