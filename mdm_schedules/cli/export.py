"""The command export: settings files for engines that run models by themselves."""

from __future__ import annotations

import argparse
from pathlib import Path

from mdm_schedules.cli.command import Command
from mdm_schedules.cli.common import in_shell_words, positive, show_result


def _export(args: argparse.Namespace) -> None:
    from mdm_schedules.files import check_output, write_output
    from mdm_schedules.integrations.engines import BlockSettings
    from mdm_schedules.integrations.sglang import NAME, settings_file
    from mdm_schedules.lookup import schedule_for_steps

    choice = {"subfolder": args.subfolder, "task": args.task}
    choice = {key: value for key, value in choice.items() if value is not None}
    with in_shell_words():
        schedule = schedule_for_steps(args.schedule, args.steps, **choice)
    settings = {
        # what a folder or the Hub holds, so that the server needs neither
        "schedule": schedule.spec,
        "steps": args.steps,
        "remasking": args.remasking,
        "commit": args.commit,
        "temperature": args.temperature,
        "seed": args.seed,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    length = args.block_length or LLADA2
    BlockSettings.read(given, length)
    plan = schedule.plan(length, args.steps)
    if args.block_length:  # the engine else takes the model's own
        given["block_size"] = length
    path = check_output(args.output)
    write_output(path, settings_file(given).encode())
    flags = f"--dllm-algorithm {NAME} --dllm-algorithm-config {path}"
    text = f"Settings: {path}\nplan of a block: {' '.join(map(str, plan.tolist()))}\n"
    show_result(
        args,
        {"output": str(path), "settings": given, "plan": plan.tolist(), "flags": flags},
        f"{text}sglang serve --model-path MODEL {flags}",
    )


LLADA2 = 32  # tokens of a block


def add(command: Command) -> None:
    """Add the command."""
    sub = command("export", _export, "Write the settings of an engine: SGLang's MDMSchedule.")
    sub.add_argument("engine", choices=("sglang",), help="what will run the model: sglang")
    sub.add_argument(
        "schedule", help="name, spec such as 'beta(a=0.9, b=0.3)', folder, preset or Hub id"
    )
    sub.add_argument(
        "--steps", type=positive, required=True, help="passes that fill a block; at most its tokens"
    )
    sub.add_argument(
        "--block-length",
        type=positive,
        help="tokens per block (default: the model's; steps are checked against LLaDA2's 32)",
    )
    sub.add_argument(
        "--remasking", help="low_confidence, margin, entropy (default: low_confidence)"
    )
    sub.add_argument(
        "--commit", help="fill more where sure, such as 'threshold(0.9)' (default: the plan alone)"
    )
    sub.add_argument("--temperature", type=float, help="of the draw (default: 0, no draw)")
    sub.add_argument(
        "--seed", type=int, help="of requests that bring none (default: by the request's id)"
    )
    sub.add_argument("--task", help="such as gsm8k, where several schedules fit (default: any)")
    sub.add_argument("--subfolder", help="folder in the repository (default: found by the rest)")
    sub.add_argument("--output", type=Path, default=Path("mdm.yaml"), help="file to write, YAML")
    sub.example(
        "export sglang 'beta(a=0.9, b=0.3)' --steps 8",
        "export sglang user/repo --task gsm8k --steps 8 --commit 'threshold(0.95)'",
    )
