"""The command line. Exit status 0 is done, 1 an error told in one line, 2 wrong usage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdm_schedules.errors import MDMError, MissingExtraError

if TYPE_CHECKING:
    from mdm_schedules.hub import Evaluation


def _print(args: argparse.Namespace, data: Any, text: str) -> None:
    print(json.dumps(data, indent=2) if args.json else text)


def _demo(args: argparse.Namespace) -> None:
    from mdm_schedules import demo
    from mdm_schedules.plotting import plot_quality
    from mdm_schedules.registry import get_schedule

    schedules = [get_schedule(spec) for spec in args.schedule or demo.SCHEDULES]
    specs = [schedule.spec for schedule in schedules]
    texts = {
        spec: [demo.write_code(spec, prompt, steps=32, new_tokens=88, seed=args.seed) for prompt in demo.PROMPTS]
        for spec in (specs[0], specs[-1])
    }
    if not args.json:
        print("Python written by the shipped 0.8M-parameter byte model, 88 tokens in 32 passes, random order:\n")
        for spec, written in texts.items():
            print(f"--- {spec}")
            print("\n".join(line for text in written for line in (*text.splitlines(), "")))
    options = {"puzzles": args.puzzles, "seed": args.seed, **demo.TASK}
    table = demo.accuracy_table(specs, demo.STEPS, **options)
    picture: str | None = str(args.output)
    try:
        plot_quality(schedules, table, args.output, ylabel="6x6 Sudokus completed to a valid grid")
    except MissingExtraError as error:
        picture = None
        print(f"no picture: {error}", file=sys.stderr)
    title = f"Valid grids of {args.puzzles} held-out 6x6 Sudokus, percent with one standard error"
    text = f"{title}\n({demo.TASK_TEXT}):\n\n{demo.format_table(table)}\n"
    text += f"\nPicture: {picture}" if picture else ""
    _print(args, {"texts": texts, "task": options, "accuracy": table, "picture": picture}, text)


def _list(args: argparse.Namespace) -> None:
    from mdm_schedules.presets import PREFIX, list_presets
    from mdm_schedules.registry import Entry, list_schedules

    rows = list_schedules()
    for preset in list_presets():
        steps = ", ".join(map(str, preset.steps))
        rows.append(
            Entry(PREFIX + preset.name, preset.source, f"best of {len(preset.rows)} schedules at steps {steps}")
        )
    width = max((len(row.name) for row in rows), default=0)
    lines = [f"{row.name:<{width}}  {row.target}  ({row.source})" for row in rows]
    _print(args, [dataclasses.asdict(row) for row in rows], "\n".join(lines))


def _show(args: argparse.Namespace) -> None:
    from mdm_schedules.registry import get_schedule

    choice = {"subfolder": args.subfolder, "task": args.task}
    schedule = get_schedule(args.schedule, **{key: value for key, value in choice.items() if value is not None})
    evaluation = schedule.evaluation
    times = [i / 8 for i in range(9)]
    data = {
        "schedule": schedule.spec,
        "t": times,
        "alpha": schedule.alpha(times).tolist(),  # type: ignore[attr-defined]
        "gamma": schedule.gamma(times).tolist(),  # type: ignore[attr-defined]
        "num_tokens": args.num_tokens,
        "plan": schedule.plan(args.num_tokens, args.steps).tolist(),
        "evaluation": evaluation and evaluation.to_json(),
    }
    summary = (type(schedule).__doc__ or "").strip().splitlines()[0]
    rows = zip(data["t"], data["alpha"], data["gamma"], strict=True)
    curve = "\n".join(f"{t:5.3f}  {alpha:8.6f}  {gamma:8.6f}" for t, alpha, gamma in rows)
    plan = f"plan for {args.num_tokens} tokens in {args.steps} steps:\n{' '.join(map(str, data['plan']))}"
    scored = f"\n{_scored(evaluation)}" if evaluation else ""
    _print(args, data, f"{schedule.spec}\n{summary}{scored}\n\n    t     alpha     gamma\n{curve}\n\n{plan}")


def _scored(evaluation: Evaluation) -> str:
    against = f", linear {evaluation.baseline_score}" if evaluation.baseline is not None else ""
    where = f"{evaluation.task} in {evaluation.steps} steps on {evaluation.model}"
    return f"{where}: {evaluation.metric} {evaluation.score}{against}"


def _push(args: argparse.Namespace) -> None:
    from mdm_schedules.hub import Evaluation
    from mdm_schedules.hub.files import read_json
    from mdm_schedules.registry import get_schedule

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
    _print(args, {"url": url, "commit": done.oid}, f"Pushed: {url}")


def _pull(args: argparse.Namespace) -> None:
    from mdm_schedules.schedules import Schedule

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
    data = {"folder": str(folder), "schedule": schedule.spec, "evaluation": evaluation and evaluation.to_json()}
    scored = f"\n{_scored(evaluation)}" if evaluation else ""
    _print(args, data, f"{schedule!r:.200}{scored}\nSaved in {folder}")


def _search(args: argparse.Namespace) -> None:
    from mdm_schedules.hub import search_schedules

    rows = search_schedules(args.base_model, task=args.task, author=args.author, search=args.search, limit=args.limit)
    lines = []
    for row in rows:
        lines.append(f"{row.repo_id}  for {', '.join(row.base_models) or 'any model'}  ({row.downloads} downloads)")
        lines += [f"    {_scored(evaluation)}" for evaluation in row.evaluations]
    data = [
        {**dataclasses.asdict(row), "evaluations": [evaluation.to_json() for evaluation in row.evaluations]}
        for row in rows
    ]
    _print(args, data, "\n".join(lines) or "Nothing fits; search with fewer words.")


def _plot(args: argparse.Namespace) -> None:
    from mdm_schedules.plotting import plot_schedules
    from mdm_schedules.registry import get_schedule

    schedules = [get_schedule(spec) for spec in args.schedule]
    plot_schedules(schedules, args.output, num_tokens=args.num_tokens, steps=args.steps)
    _print(args, {"picture": str(args.output)}, f"Picture: {args.output}")


def _energy(args: argparse.Namespace) -> None:
    from mdm_schedules.energy import discrete_energy, energy_excess
    from mdm_schedules.registry import get_schedule

    schedule = get_schedule(args.schedule)
    gamma = None if args.gamma is None else get_schedule(args.gamma)
    excess = energy_excess(schedule, gamma)
    data = {
        "schedule": schedule.spec,
        "gamma": None if gamma is None else gamma.spec,
        "energy": excess * math.pi**2 if math.isfinite(excess) else None,  # JSON has no infinity
        "excess": excess if math.isfinite(excess) else None,
        "excess_error": excess.error,
        "steps": args.steps,
        "discrete_energy": discrete_energy(schedule, args.steps, gamma),
    }
    weight = "gamma(t) = t" if gamma is None else f"the gamma of {gamma.spec}"
    value = f"{excess * math.pi**2:.9g} = {excess:.9g} * pi^2 (error {excess.error:.1g})"
    text = f"{schedule.spec} under {weight}, per token (arXiv 2509.13866, Eq. 14):\n"
    text += f"energy: {value if math.isfinite(excess) else 'infinite'}; the least possible is pi^2\n"
    _print(args, data, f"{text}in {args.steps} steps (App. D.5): {data['discrete_energy']:.9g}")


def _sample(args: argparse.Namespace) -> None:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from mdm_schedules import demo_models
    from mdm_schedules.errors import StorageError
    from mdm_schedules.integrations.transformers import AutoModelForMaskedDiffusion

    logging.disable_progress_bar()
    path = str(demo_models.path(args.model)) if args.model in demo_models.NAMES else args.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForMaskedDiffusion.from_pretrained(path, schedule=args.schedule)
    except (OSError, ValueError) as error:
        if isinstance(error, MDMError):
            raise
        raise StorageError(f"cannot load {args.model}: {str(error).splitlines()[0]}") from error
    ids = tokenizer(args.prompt, return_tensors="pt", add_special_tokens=args.special_tokens).input_ids
    out = model.generate(
        ids,
        steps=args.steps,
        max_new_tokens=args.max_new_tokens,
        block_length=args.block_length,
        remasking=args.remasking,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        mask_token_id=tokenizer.mask_token_id,
        seed=args.seed,
        progress=sys.stderr.isatty(),
    )
    text = str(tokenizer.decode(out.sequences[0], skip_special_tokens=True))
    data = {"text": text, "tokens": out.sequences[0].tolist(), "nfe": out.nfe, "seed": out.seeds[0]}
    _print(args, {**data, "schedule": model.schedule.spec}, text)


def _parser() -> argparse.ArgumentParser:
    from mdm_schedules import __version__
    from mdm_schedules.sampling.policy import POLICIES

    parser = argparse.ArgumentParser(prog="mdm-schedules", description="Mask schedules for masked diffusion models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--json", action="store_true", help="print JSON for machines")
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", _demo, "Write code and solve Sudokus with the shipped models under several schedules.")
    demo.add_argument("--schedule", action="append", help="a schedule to compare, may be repeated")
    demo.add_argument("--puzzles", type=int, default=200, help="Sudokus per cell of the table (default 200)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--output", type=Path, default=Path("mdm-schedules-demo.png"), help="where to save the picture")

    command("list", _list, "List the known schedules and presets, and where each comes from.")

    show = command("show", _show, "Print a schedule's curve and plan.")
    show.add_argument("schedule", help="name, spec such as 'beta(a=0.9, b=0.3)', folder, or Hub id")
    plot = command("plot", _plot, "Save a picture of schedules and their plans.")
    plot.add_argument("schedule", nargs="+", help="names, specs or folders")
    plot.add_argument("--output", type=Path, default=Path("schedules.png"))
    for sub in (show, plot):
        sub.add_argument("--num-tokens", type=int, default=256)
        sub.add_argument("--steps", type=int, default=16)

    energy = command("energy", _energy, "Print a schedule's energy, and how far it is above the minimum.")
    energy.add_argument("schedule", help="name, spec or folder")
    energy.add_argument("--gamma", help="the schedule whose gamma weighs the energy (default: gamma(t) = t)")
    energy.add_argument("--steps", type=int, default=16, help="of the discrete energy (default 16)")
    push = command("push", _push, "Publish a schedule on the Hub.")
    push.add_argument("schedule", help="folder, spec, or Hub id")
    push.add_argument("repo", help="user/repo, made if missing")
    push.add_argument("--evaluation", type=Path, help="JSON file: model, task, steps, metric, value, ...")
    push.add_argument("--private", action="store_true", help="if the repository is new")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead")

    pull = command("pull", _pull, "Save a schedule from the Hub in a folder.")
    pull.add_argument("repo", help="user/repo or user/repo@revision")
    pull.add_argument("--steps", type=int, help="take the one tuned for the nearest number of steps")
    pull.add_argument("--output", type=Path, help="folder (default: the name of the repository)")
    pull.add_argument("--force-download", action="store_true")

    search = command("search", _search, "Find schedules on the Hub.")
    search.add_argument("search", nargs="?", help="part of the name")
    search.add_argument("--base-model")
    search.add_argument("--author")
    search.add_argument("--limit", type=int, default=20)
    for sub in (push, pull):
        sub.add_argument("--revision", help="branch, tag or commit")
    for sub in (push, pull, show):
        sub.add_argument("--subfolder", help="folder in the repository")
    for sub in (pull, search, show):
        sub.add_argument("--task", help="such as gsm8k")

    sample = command("sample", _sample, "Write text with a masked language model.")
    sample.add_argument("--model", default="code", help="folder or Hub id, or a shipped one: code, sudoku")
    sample.add_argument("--prompt", required=True, help="text before the answer; mask tokens in it are filled")
    sample.add_argument("--schedule", help="default: the model's own, else linear")
    sample.add_argument("--steps", type=int, help="forward passes (default: one per token)")
    sample.add_argument("--max-new-tokens", type=int)
    sample.add_argument("--block-length", type=int)
    sample.add_argument("--remasking", choices=sorted(POLICIES), default="low_confidence")
    sample.add_argument("--temperature", type=float, default=0.0)
    sample.add_argument("--top-k", type=int)
    sample.add_argument("--top-p", type=float)
    sample.add_argument("--seed", type=int)
    sample.add_argument("--special-tokens", action="store_true", help="let the tokenizer add its special tokens")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (MDMError, OSError) as error:
        print(f"mdm-schedules: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
