"""The command sample: one prompt to the screen, or many to a file, on one process or many."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mdm_schedules.cli.chat import as_turn, chat_prompts, prompt_file
from mdm_schedules.cli.command import Command, CommandParser
from mdm_schedules.cli.common import (
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    positive,
    refuse_idle,
    sampling_options,
    show_result,
)
from mdm_schedules.cli.launch import end_with_parent, launch
from mdm_schedules.cli.signals import same_command
from mdm_schedules.errors import MDMError
from mdm_schedules.files import check_output
from mdm_schedules.prompt_files import check_prompt_file

_OF_FILES = {"output", "batch_size", "num_processes", "on_error"}
_OF_FILES |= {"overwrite", "force_resume", "extend"}
_ALSO = ("plan", "adapter")  # options of one call that text can give


def _sample(args: argparse.Namespace) -> None:
    _check_usage(args)
    if args.prompts is None:
        _sample_one(args)
        return
    end_with_parent()
    if args.prompts != "-":
        check_prompt_file(args.prompts)
    if args.output not in (None, "-"):
        check_output(args.output, plain=True)
    with ExitStack() as stack:
        path = stack.enter_context(prompt_file(args.prompts))
        if args.num_processes > 1:
            _launch(args, path, stack)
        else:
            _sample_file(args, path, stack)


def _sample_one(args: argparse.Namespace) -> None:
    model, tokenizer = load_model(args)
    prompt = as_turn(tokenizer, args.prompt) if args.chat else args.prompt
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=args.special_tokens).input_ids
    start = time.monotonic()
    options = _options(args, tokenizer)
    out = model.generate(ids, tokenizer=tokenizer, progress=True, **options)
    seconds = time.monotonic() - start
    begin = ids.shape[1] if args.chat else 0
    answers = [
        {
            "text": str(tokenizer.decode(row[begin:], skip_special_tokens=True)),
            "tokens": row.tolist(),
            "seed": seed,
        }
        for row, seed in zip(out.sequences, out.seeds, strict=True)
    ]
    several = {"answers": answers} if len(answers) > 1 else answers[0]
    data = {**several, "nfe": out.nfe, "seconds": seconds, "schedule": model.schedule.spec}
    show_result(args, data, "\n\n".join(answer["text"] for answer in answers))
    if not args.json:
        sys.stdout.flush()
        seeds = " ".join(str(answer["seed"]) for answer in answers)
        word = "pass" if out.nfe == 1 else "passes"
        print(f"{out.nfe} {word} in {seconds:.2f} s, seed {seeds}", file=sys.stderr)


def _options(args: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    options = {"mask_token_id": tokenizer.mask_token_id, **sampling_options(args, also=_ALSO)}
    return options | {"seed": args.seed}


def _check_usage(args: argparse.Namespace) -> None:
    if (args.prompts is None) == (args.prompt is None):
        args.usage("give either --prompt TEXT or --prompts FILE")
    if args.prompts is None:
        refuse_idle(args, _OF_FILES, "--prompts FILE")
    if args.num_processes > 1 and "LOCAL_RANK" in os.environ:
        args.usage(
            "--num-processes starts processes itself; leave it out under accelerate launch "
            "or torchrun"
        )
    if args.chat and args.special_tokens:
        args.usage("--chat has its special tokens from the template; leave --special-tokens out")


def _sample_file(args: argparse.Namespace, path: Path, stack: ExitStack) -> None:
    """On this process, or on all that accelerate launch, torchrun or `launch` started."""
    from accelerate import PartialState

    from mdm_schedules.integrations.accelerate import generate_distributed

    # before the model goes to "cuda", which is then this process's own
    state = PartialState(cpu=args.device == "cpu")
    printed = args.output in (None, "-")
    try:
        model, tokenizer = load_model(args)
        if args.chat:
            path = stack.enter_context(chat_prompts(path, tokenizer))
        out = generate_distributed(
            model,
            path,
            tokenizer=tokenizer,
            output_path=None if printed else args.output,
            batch_size=args.batch_size,
            on_error=args.on_error,
            overwrite=args.overwrite,
            force_resume=args.force_resume,
            extend=args.extend,
            add_special_tokens=args.special_tokens,
            progress=True,
            **_options(args, tokenizer),
        )
    except MDMError as error:
        if getattr(error, "remote", False):
            raise SystemExit(1) from None  # the process that failed reports it
        raise
    if not state.is_main_process:
        return
    for record in out.records:
        print(json.dumps(record))
    data = {name: value for name, value in vars(out).items() if name != "records"}
    _tell(args, {**data, "schedule": model.schedule.spec})


def _tell(args: argparse.Namespace, data: dict[str, Any]) -> None:
    """What was done: where the answers are printed, not among them."""
    printed = args.output in (None, "-")
    new = data["prompts"] - data["done_before"]
    text = (
        f"{'standard output' if printed else args.output}: {data['prompts']} prompts, {new} of "
        f"them now, in {data['seconds']:.1f} s: {data['tokens']} tokens in {data['nfe']} passes, "
        f"seed {data['seed']}"
    )
    text += f"; {data['skipped']} skipped" if data["skipped"] else ""
    if printed:
        sys.stdout.flush()
        print(text, file=sys.stderr)
    else:
        show_result(args, data, text)


def _launch(args: argparse.Namespace, path: Path, stack: ExitStack) -> None:
    """Run the same command on several processes of this machine."""
    words = [*args.argv, "--num-processes", "1", "--prompts", str(path)]
    if args.output not in (None, "-"):
        launch(words, args.num_processes)
        return
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mdm-schedules-"))
    answers, told = Path(folder, "answers.jsonl"), Path(folder, "told.json")
    with open(told, "wb") as out:
        # Answers that go to the screen are written to a file first: several processes cannot share
        # one standard output in the order of the prompts.
        words += ["--output", str(answers), "--json"]
        launch(words, args.num_processes, stdout=out.fileno())
    with open(answers, encoding="utf-8") as file:
        shutil.copyfileobj(file, sys.stdout)
    _tell(args, json.loads(told.read_text(encoding="utf-8")))


def _kept(args: argparse.Namespace) -> str:
    if args.prompts is None or args.output in (None, "-"):
        return "nothing is kept" + ("; --output FILE keeps what is finished" * bool(args.prompts))
    if args.prompts == "-":
        again = "the same command on the same input goes on"
    else:
        again = same_command(args.argv, "--overwrite")
    return f"finished prompts are kept in {args.output}.shards; {again}"


def add(command: Command) -> None:
    """Add the commands of this module."""
    sample: CommandParser = command("sample", _sample, "Write text with a masked language model.")
    sample.add_argument(
        "--prompt", help="text before the answer; mask tokens in it are filled (default: --prompts)"
    )
    sample.add_argument(
        "--prompts",
        metavar="FILE",
        help='.jsonl ({"prompt": ..., "id": ...}), or a text on each line; - is standard input '
        "(default: --prompt)",
    )
    sample.add_argument(
        "--output",
        metavar="FILE",
        help="JSONL for the answers to --prompts; a repeated call goes on (default: -, standard "
        "output)",
    )
    sample.add_argument(
        "--chat",
        action="store_true",
        help="the prompt is a user's turn, put into the model's chat template; lines of --prompts "
        'may hold "messages"',
    )
    add_model_arguments(sample)
    sample.add_argument("--seed", type=int, help="of the noise (default: a new one, which is told)")
    sample.add_argument(
        "--special-tokens", action="store_true", help="let the tokenizer add its special tokens"
    )
    files = sample.add_argument_group("with --prompts")
    files.add_argument("--batch-size", type=positive, default=8, help="prompts in one pass")
    files.add_argument("--num-processes", type=positive, default=1, help="processes to start")
    files.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a bad line or prompt"
    )
    files.add_argument(
        "--overwrite", action="store_true", help="discard what is there of the output"
    )
    files.add_argument(
        "--force-resume", action="store_true", help="go on from results of other settings"
    )
    files.add_argument(
        "--extend", action="store_true", help="do prompts appended to those of a finished output"
    )
    add_sampling_arguments(sample, also=_ALSO)
    sample.set_defaults(kept=_kept)
    sample.example(
        "sample --prompt 'def f(' --max-new-tokens 32 --steps 8 --schedule 'beta(a=0.9, b=0.3)'",
        "sample --model GSAI-ML/LLaDA-8B-Instruct --trust-remote-code --device cuda --chat "
        "--prompt 'What is 7 * 8?' --max-new-tokens 64 --steps 16",
        "sample --prompts prompts.jsonl --output answers.jsonl --max-new-tokens 128 --steps 32 "
        "--num-processes 8",
        "sample --prompts - --max-new-tokens 32 < prompts.txt > answers.jsonl",
    )
