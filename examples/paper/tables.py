"""Prints Tables 2-7 of arXiv 2509.13866 from the presets, or the same grid on your model and task.

    python examples/paper/tables.py [--task mbpp] [--markdown] [--output tables.json]
    python examples/paper/tables.py --model GSAI-ML/LLaDA-8B-Base --trust-remote-code \\
        --task gsm8k --limit 100

The figures are percent correct, mean and one standard error. The best mean of each column is marked
*, and every mean within a standard error of it ~. The second form needs lm-eval (the extra `eval`).
Its default schedules, steps and length are those of the paper's table for the task, if there is
one.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from mdm_schedules.errors import MDMError
from mdm_schedules.presets import Preset, get_preset, list_presets
from mdm_schedules.sampling import policies


def cells(table: Preset) -> list[list[str]]:
    """Return header and rows as text."""
    lines = [["schedule", *(f"{steps} steps" for steps in table.steps)]]
    best = [max(table.rows, key=lambda row: row.mean[i]) for i in range(len(table.steps))]
    for row in table.rows:
        line = [row.schedule]
        for i, top in enumerate(best):
            near = row.mean[i] >= top.mean[i] - top.standard_error[i]
            mark = "*" if row.mean[i] == top.mean[i] else "~" if near else " "
            line.append(f"{row.mean[i]:.2f} ± {row.standard_error[i]:.2f}{mark}")
        lines.append(line)
    return lines


def show(table: Preset, markdown: bool) -> None:
    lines = cells(table)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    heading = f"{table.model} on {table.task}, {table.gen_length} tokens ({table.source})"
    print(f"### {heading}\n" if markdown else heading)
    for index, line in enumerate(lines):
        first, *rest = zip(line, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]
        print(f"| {' | '.join(padded)} |" if markdown else "  ".join(padded))
        if markdown and not index:
            print(
                "|"
                + "|".join(
                    "-" * (width + 1) + (":" if place else "-")
                    for place, width in enumerate(widths)
                )
                + "|"
            )
    print()


def grid(args: argparse.Namespace) -> Preset:
    """Run the paper's grid, or the requested one, on `args.model`."""
    papers = {table.task: table for table in list_presets()}
    paper = papers.get(args.task[0], papers["gsm8k"])
    schedules = args.schedule or [row.schedule for row in paper.rows]
    from grid import run_grid  # beside this script; needs lm-eval

    return run_grid(
        args, schedules, args.steps or list(paper.steps), args.gen_length or paper.gen_length
    )  # type: ignore[no-any-return]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(table.name for table in list_presets())
    parser.add_argument(
        "--task", action="append", help=f"of {names} (default: all), may be repeated; or of lm-eval"
    )
    parser.add_argument("--markdown", action="store_true", help="as Markdown")
    parser.add_argument("--output", type=Path, help="write the figures into this JSON file too")
    run = parser.add_argument_group("the same grid on a model")
    run.add_argument("--model", help="folder or Hub id of a masked diffusion model")
    run.add_argument(
        "--schedule", action="append", help="may be repeated (default: the paper's for the task)"
    )
    run.add_argument("--steps", type=int, nargs="+")
    run.add_argument("--gen-length", type=int)
    run.add_argument("--block-length", type=int)
    run.add_argument("--remasking", choices=policies.names(), default="low_confidence")
    run.add_argument("--temperature", type=float, default=0.0)
    run.add_argument("--num-fewshot", type=int)
    run.add_argument("--limit", type=int, help="use the first so many examples")
    run.add_argument("--metric", help="for example exact_match (default: the task's first)")
    run.add_argument("--chat", action="store_true", help="apply the model's chat template")
    run.add_argument("--batch-size", type=int, default=1)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--device", default="cpu")
    run.add_argument("--include-path", help="folder with lm-eval tasks of your own")
    run.add_argument("--trust-remote-code", action="store_true")
    run.add_argument(
        "--allow-code-execution",
        action="store_true",
        help="for tasks that run what the model writes",
    )
    args = parser.parse_args(arguments)
    if args.model and len(args.task or []) != 1:
        parser.error("--model needs one --task")
    try:
        if args.model:
            tables = [grid(args)]
        else:
            wanted = args.task or [table.name for table in list_presets()]
            tables = [get_preset(name if "/" in name else f"llada-8b/{name}") for name in wanted]
    except (MDMError, OSError) as error:
        print(f"tables.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for table in tables:
        show(table, args.markdown)
    if args.output:
        text = json.dumps([asdict(table) for table in tables])
        # a task may report no standard error
        data = json.loads(text, parse_constant=lambda nan: None)
        args.output.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
