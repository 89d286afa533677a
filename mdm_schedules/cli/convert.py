"""The command convert: released models to their native form, and back."""

from __future__ import annotations

import argparse
import sys

from mdm_schedules.cli.command import Command
from mdm_schedules.cli.common import show_result


def add(command: Command) -> None:
    """Add the command."""
    sub = command("convert", convert, "Rewrite a released model in native form, or back.")
    sub.add_argument("source", help="folder or Hub id")
    sub.add_argument("folder", help="new folder, or one in which the conversion was stopped")
    sub.add_argument("--to", choices=("native", "released"), default="native", help="the form")
    sub.add_argument(
        "--mask-token-id", type=int, help="where the model names none, or two (default: its own)"
    )
    sub.add_argument("--revision", help="on the Hub: branch, tag or commit (default: main)")
    sub.example(
        "convert GSAI-ML/LLaDA-8B-Instruct llada-native", "convert llada-native back --to released"
    )


def convert(args: argparse.Namespace) -> None:
    """`convert`."""
    from mdm_schedules.integrations.transformers.native.convert import convert as run

    def told(done: int, total: int) -> None:
        if not args.json:
            print(f"\r{done} of {total} files", end="\n" if done == total else "", file=sys.stderr)

    options = {"revision": args.revision, "mask_token_id": args.mask_token_id}
    given = {key: value for key, value in options.items() if value is not None}
    files = run(args.source, args.folder, to=args.to, told=told, **given)
    lines = [f"{digest}  {name}" for name, digest in files.items()]
    text = "\n".join([*lines, f"{args.folder} holds the model in {args.to} form"])
    show_result(args, {"folder": args.folder, "form": args.to, "sha256": files}, text)
