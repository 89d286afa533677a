"""The command that says what a key-value cache costs in quality: cache."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mdm_schedules.cli.command import Command, CommandParser
from mdm_schedules.cli.common import (
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    positive,
    sampling_options,
    show_result,
)
from mdm_schedules.cli.tune import read_instances
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.prompt_files import check_prompt_file

_DECIDED = ("steps", "num_return_sequences", "cache", "cache_refresh", "cache_refresh_blocks")
_OF_TEXT = ("block_length", "remasking", "mask_token_id")  # options that text is measured with


def _cache(args: argparse.Namespace) -> None:
    from mdm_schedules.tuning import GenerationObjective, compare_caches

    given = sampling_options(args, _DECIDED)
    shared: dict[str, Any] = {"steps": args.steps, "tolerance": args.tolerance}
    model, tokenizer = load_model(args)
    shared["schedule"] = model.schedule if args.schedule is None else args.schedule
    if args.data.suffix == ".jsonl":
        objective = GenerationObjective(
            model,
            read_instances(args.data)[: args.limit],
            args.metric,
            tokenizer=tokenizer,
            batch_size=args.batch_size,
            **{"mask_token_id": tokenizer.mask_token_id, **given},
        )
        found = compare_caches(model, objective, **shared)
    else:
        if other := sorted(set(given) - set(_OF_TEXT)):
            raise InvalidValueError(
                f"{other[0]} has no effect on the likelihood of text; give a .jsonl file of "
                "prompts and answers with it"
            )
        given = {"mask_token_id": tokenizer.mask_token_id, **given}
        rows = _sequences(args.data, tokenizer, args.length, args.limit)
        found = compare_caches(model, rows, batch_size=args.batch_size, **given, **shared)
    show_result(args, found.to_json(), str(found))


def _sequences(path: Path, tokenizer: Any, length: int, limit: int) -> Any:
    """LongTensor [S, length]: the text in pieces, spread over the file."""
    import torch

    text = check_prompt_file(path).read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
    pieces = ids[: len(ids) // length * length].view(-1, length)
    if len(pieces) < 2:
        raise InvalidValueError(
            f"{path} has {len(ids)} tokens, too few for two sequences of {length}; give more text, "
            f"or --length {max(2, len(ids) // 2)}"
        )
    return pieces[torch.linspace(0, len(pieces) - 1, min(limit, len(pieces))).long()]


def add(command: Command) -> None:
    """Add the command of this module."""
    cache: CommandParser = command(
        "cache", _cache, "Find out what a key-value cache costs in quality, on your data."
    )
    cache.add_argument(
        "data",
        type=Path,
        help='JSONL of {"prompt": ..., "answer": ...}, or a file of text, of which the second '
        "half of each sequence is written",
    )
    cache.add_argument("--steps", type=positive, required=True, help="forward passes of an answer")
    cache.add_argument("--length", type=positive, default=128, help="tokens of a sequence of text")
    cache.add_argument("--limit", type=positive, default=128, help="sequences or instances")
    cache.add_argument("--metric", default="exact_match", help="of JSONL: exact_match, contains")
    cache.add_argument("--batch-size", type=positive, default=32, help="sequences in one pass")
    cache.add_argument(
        "--tolerance",
        type=float,
        default=0.25,
        help="what a cache may lose, as a share of what half the steps lose",
    )
    add_model_arguments(cache)
    add_sampling_arguments(cache, _DECIDED)
    cache.example(
        "cache text.txt --steps 8 --block-length 32",
        "cache mine.jsonl --model GSAI-ML/LLaDA-8B-Instruct --device cuda --max-new-tokens 128 "
        "--block-length 32 --steps 32",
    )
