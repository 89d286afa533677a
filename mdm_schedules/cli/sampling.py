"""The command sample: one prompt to the screen, or a file of them to a file, on one process or
many.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from mdm_schedules.cli.common import (
    Command,
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_options,
    show_result,
)
from mdm_schedules.cli.parent import LAUNCHER, end_with_parent
from mdm_schedules.errors import DistributedError, MDMError
from mdm_schedules.files import check_output
from mdm_schedules.prompt_files import check_prompt_file


def _sample(args: argparse.Namespace) -> None:
    end_with_parent()
    _check_usage(args)
    if args.prompts is not None:
        check_prompt_file(args.prompts)
        check_output(args.output, plain=True)
        _launch(args) if args.num_processes > 1 else _sample_file(args)
        return
    model, tokenizer = load_model(args)
    ids = tokenizer(
        args.prompt, return_tensors="pt", add_special_tokens=args.special_tokens
    ).input_ids
    out = model.generate(
        ids,
        **_options(args, tokenizer),
        progress=sys.stderr.isatty(),
    )
    text = str(tokenizer.decode(out.sequences[0], skip_special_tokens=True))
    data = {"text": text, "tokens": out.sequences[0].tolist(), "nfe": out.nfe, "seed": out.seeds[0]}
    show_result(args, {**data, "schedule": model.schedule.spec}, text)


def _options(args: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    options = {
        "mask_token_id": tokenizer.mask_token_id,
        **sampling_options(args, "num_return_sequences"),
    }
    return options | {"seed": args.seed}


def _check_usage(args: argparse.Namespace) -> None:
    if (args.prompts is None) == (args.prompt is None):
        args.usage("give either --prompt TEXT or --prompts FILE")
    if (args.prompts is None) != (args.output is None):
        args.usage("--prompts FILE and --output FILE belong together")
    if args.num_processes < 1:
        args.usage(f"--num-processes must be at least 1, got {args.num_processes}")
    if args.num_processes > 1 and args.prompts is None:
        args.usage("--num-processes is for --prompts FILE")


def _sample_file(args: argparse.Namespace) -> None:
    """On this process, or on all that accelerate launch, torchrun or `_launch` started."""
    from accelerate import PartialState

    from mdm_schedules.integrations.accelerate import generate_distributed

    # before the model goes to "cuda", which is then this process's own
    state = PartialState(cpu=args.device == "cpu")
    try:
        model, tokenizer = load_model(args)
        out = generate_distributed(
            model,
            args.prompts,
            tokenizer=tokenizer,
            output_path=args.output,
            batch_size=args.batch_size,
            on_error=args.on_error,
            overwrite=args.overwrite,
            force_resume=args.force_resume,
            extend=args.extend,
            add_special_tokens=args.special_tokens,
            progress=sys.stderr.isatty(),
            **_options(args, tokenizer),
        )
    except MDMError as error:
        if getattr(error, "remote", False):
            raise SystemExit(1) from None  # the process that failed tells it
        raise
    if not state.is_main_process:
        return
    data = {name: value for name, value in vars(out).items() if name != "records"}
    new = out.prompts - out.done_before
    text = (
        f"{args.output}: {out.prompts} prompts, {new} of them now, in {out.seconds:.1f} s: "
        f"{out.tokens} tokens"
    )
    text += f" in {out.nfe} passes, seed {out.seed}" + (
        f"; {out.skipped} skipped" if out.skipped else ""
    )
    show_result(args, {**data, "schedule": model.schedule.spec}, text)


def _launch(args: argparse.Namespace) -> None:
    """Run the same command on several processes of this machine; they end together."""
    import logging
    import uuid

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if "LOCAL_RANK" in os.environ:
        args.usage(
            "--num-processes starts processes itself; leave it out under accelerate launch "
            "or torchrun"
        )
    # the processes tell what went wrong
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.num_processes))
    )
    os.environ[LAUNCHER] = str(os.getpid())
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=args.num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    words = ["-m", "mdm_schedules.cli", *args.argv, "--num-processes", "1"]
    try:
        elastic_launch(config, sys.executable)(*words)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            raise SystemExit(1) from None
        raise DistributedError(
            f"process {rank} was ended by signal {-failure.exitcode} (9 is often a lack of "
            "memory); what is finished "
            "is kept: the same command does the rest"
        ) from None


def add(command: Command) -> None:
    """Add the commands of this module."""
    sample = command("sample", _sample, "Write text with a masked language model.")
    add_model_arguments(sample)
    sample.add_argument("--prompt", help="text before the answer; mask tokens in it are filled")
    sample.add_argument(
        "--prompts",
        metavar="FILE",
        help='.jsonl ({"prompt": ..., "id": ...}), or a text on each line',
    )
    sample.add_argument(
        "--output",
        metavar="FILE",
        help="JSONL for the answers to --prompts; a repeated call goes on",
    )
    sample.add_argument(
        "--batch-size", type=int, default=8, help="prompts of --prompts in one pass (default 8)"
    )
    sample.add_argument(
        "--num-processes", type=int, default=1, help="processes to start for --prompts (default 1)"
    )
    sample.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a bad line or prompt"
    )
    sample.add_argument(
        "--overwrite", action="store_true", help="discard what is there of the output"
    )
    sample.add_argument(
        "--force-resume", action="store_true", help="go on from results of other settings"
    )
    sample.add_argument(
        "--extend", action="store_true", help="do prompts appended to those of a finished output"
    )
    add_sampling_arguments(sample, "num_return_sequences")
    sample.add_argument("--seed", type=int)
    sample.add_argument(
        "--special-tokens", action="store_true", help="let the tokenizer add its special tokens"
    )
    sample.set_defaults(usage=sample.error)
