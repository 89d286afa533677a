"""The command that runs lm-eval's tasks: eval."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from mdm_schedules.checks import check_int
from mdm_schedules.cli.command import Command
from mdm_schedules.cli.common import (
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_options,
)
from mdm_schedules.cli.signals import same_command
from mdm_schedules.errors import InvalidValueError, StorageError
from mdm_schedules.files import check_output, local_path, write_output

_LEFT_OUT = ("num_return_sequences",)
_OF_THE_MODEL = ("batch_size", "seed", "mc_num", "check_greedy", "add_bos_token", "max_length")


def _evaluate(args: argparse.Namespace) -> None:
    from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM, joined_processes, load_tasks
    from mdm_schedules.integrations.lm_eval.answers import answer_files, keep_answers

    if args.limit is not None:
        check_int("--limit", args.limit, 1)
    if args.num_fewshot is not None:
        check_int("--num-fewshot", args.num_fewshot, 0)
    include = None if args.include_path is None else local_path(args.include_path)
    if include is not None and not include.is_dir():
        raise StorageError(f"--include-path must be a folder, got {include}")
    output = _output_file(args.output)
    if args.allow_code_execution:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # asked by the metric of these tasks
    # lm-eval forks for the errors of some metrics; beside torch's threads that may wait for ever
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import handle_non_serializable, make_table

    manager = TaskManager(include_path=None if include is None else str(include))
    names = [name for name in args.tasks.split(",") if name]
    tasks = load_tasks(names, manager, allow_code_execution=args.allow_code_execution)
    joined_processes()  # so that "cuda" is this process's own GPU
    model, tokenizer = load_model(args)
    given = {name: getattr(args, name) for name in _OF_THE_MODEL}
    given |= sampling_options(args, _LEFT_OUT)
    lm = MaskedDiffusionLM(model, tokenizer, **given)
    if args.apply_chat_template and not tokenizer.chat_template:
        raise InvalidValueError(
            f"the tokenizer of {args.model} has no chat template; leave --apply-chat-template out"
        )
    beside = output if output is not None and _is_plain(output) else None
    if beside is not None:
        keep_answers(lm, beside)
    with contextlib.redirect_stdout(sys.stderr):  # lm-eval prints to both
        results: dict[str, Any] | None = simple_evaluate(
            model=lm,
            tasks=tasks,
            num_fewshot=args.num_fewshot,
            limit=args.limit,
            apply_chat_template=args.apply_chat_template,
            task_manager=manager,
            log_samples=args.log_samples,
            confirm_run_unsafe_code=args.allow_code_execution,
        )
    if results is None:  # the first process has them
        return
    text = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False)
    if output is not None:
        write_output(output, f"{text}\n".encode())
    if beside is not None:
        for file in answer_files(beside):  # the results hold what they led to
            file.unlink(missing_ok=True)
    if args.json:
        print(text)
    else:
        print(
            make_table(results) + (make_table(results, "groups") if results.get("groups") else ""),
            end="",
        )


def _output_file(path: Path | None) -> Path | None:
    """Where to write the results; found out before hours are spent on them."""
    if path is None:
        return None
    place = local_path(path)
    return check_output(place / "results.json" if os.path.isdir(place) else place)


def _is_plain(path: Path) -> bool:
    """Whether a plain file is or will be there: what is kept stands beside it."""
    return os.path.isfile(path) or not os.path.exists(path)


def _kept(args: argparse.Namespace) -> str:
    from mdm_schedules.integrations.lm_eval.answers import count_answers

    output = _output_file(args.output)
    if output is None or not _is_plain(output):
        return "nothing is kept; --output FILE keeps what is answered"
    return f"{count_answers(output)} answers are kept beside {output}; {same_command(args.argv)}"


def add(command: Command) -> None:
    """Add the command of this module."""
    run = command(
        "eval", _evaluate, "Run tasks of lm-eval on a masked language model under a schedule."
    )
    run.add_argument(
        "--tasks", required=True, help="names of tasks or groups of lm-eval, separated by commas"
    )
    add_model_arguments(run)
    add_sampling_arguments(run, _LEFT_OUT)
    run.add_argument("--mc-num", type=int, default=128, help="forward passes per likelihood")
    run.add_argument(
        "--check-greedy",
        action="store_true",
        help="find out whether likely texts would be written too",
    )
    run.add_argument(
        "--add-bos-token",
        action="store_true",
        help="begin every text with the tokenizer's BOS token",
    )
    run.add_argument(
        "--max-length", type=int, help="tokens that the model reads (default: as many as it can)"
    )
    run.add_argument("--batch-size", type=int, default=1, help="sequences in one pass")
    run.add_argument("--seed", type=int, default=0, help="of the noise")
    run.add_argument(
        "--num-fewshot", type=int, help="examples in each prompt (default: the task's)"
    )
    run.add_argument("--limit", type=int, help="first documents of each task (default: all)")
    run.add_argument("--include-path", type=Path, help="folder with tasks (default: lm-eval's)")
    run.add_argument(
        "--apply-chat-template", action="store_true", help="ask as the model's chat template has it"
    )
    run.add_argument(
        "--allow-code-execution",
        action="store_true",
        help="for tasks that run what the model writes",
    )
    run.add_argument(
        "--log-samples", action="store_true", help="keep every document and answer in the results"
    )
    run.add_argument(
        "--output",
        type=Path,
        help="JSON file for the results, or folder; beside it answers are kept until all are "
        "there, so that the same command goes on after a stop (default: only the table is printed)",
    )
    run.set_defaults(kept=_kept)
    run.example(
        "eval --tasks gsm8k --model GSAI-ML/LLaDA-8B-Instruct --trust-remote-code --device cuda "
        "--dtype bfloat16 --max-new-tokens 128 --steps 32 --limit 100",
        "eval --tasks mine --include-path tasks --schedule 'beta(a=0.9, b=0.3)' --steps 16",
    )
