"""The parser: commands, their help, and flags that are added only when their command is asked for.

The sampling flags come from the table of options, whose module needs torch. `CommandParser.later`
puts them off until the words of the command line name the command, so that --version, --help and
the help of commands without them cost no import of torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mdm_schedules._version import __version__
from mdm_schedules.checks import did_you_mean
from mdm_schedules.cli import (
    cache,
    completion,
    convert,
    demo,
    evaluate,
    explore,
    export,
    hub,
    listing,
    sampling,
    schedules,
    tune,
)
from mdm_schedules.cli.command import CommandParser

MODULES = (
    demo,
    explore,
    listing,
    schedules,
    sampling,
    tune,
    evaluate,
    cache,
    export,
    hub,
    convert,
    completion,
)


@dataclass
class Stop:
    """How far a command line has been read when something stops it."""

    command: CommandParser | None = None
    args: argparse.Namespace | None = None


def build_parser(words: Sequence[str]) -> tuple[CommandParser, CommandParser | None]:
    """The parser, and that of the command that `words` name, if any, with all its flags."""
    parser = CommandParser(
        prog="mdm-schedules", description="Mask schedules for masked diffusion models."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.example(
        "demo",
        "list",
        "sample --prompt 'def f(' --max-new-tokens 32 --steps 8",
        "tune --model sudoku --steps 6 --limit 100",
        "sample --help",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> CommandParser:
        sub: CommandParser = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--json", action="store_true", help="print JSON for machines")
        sub.set_defaults(run=run, own=sub, usage=sub.error, parser=parser)
        return sub

    for module in MODULES:
        module.add(command)
    known: dict[str, CommandParser] = commands.choices  # type: ignore[assignment]
    # flags before the command take no value
    name = next((word for word in words if not word.startswith("-")), "")
    return parser, known[name].complete() if name in known else None


def read(
    parser: CommandParser, command: CommandParser | None, words: Sequence[str]
) -> argparse.Namespace:
    """The arguments; the error for an unknown flag names the flag that is meant here."""
    if command is None and words and not words[0].startswith("-"):
        names = [name for action in parser._subparsers._group_actions for name in action.choices]  # type: ignore
        parser.error(
            f"there is no command {words[0]!r}.{did_you_mean(words[0], names)}".rstrip(".")
        )
    args, unknown = parser.parse_known_args(words)
    if unknown and command is not None:
        command.error(_unknown(command, unknown[0]))
    args.argv = list(words)
    return args


def _unknown(command: CommandParser, word: str) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word!r}"
    flags = [flag for flag in command._option_string_actions if flag.startswith("--")]
    flag = word.partition("=")[0]
    # Only a command that samples has loaded the table, and only there another library's name helps.
    if "mdm_schedules.sampling.options" in sys.modules:
        from mdm_schedules.sampling.options import OPTIONS

        name = flag.lstrip("-").replace("-", "_")
        for ours, option in OPTIONS.items():
            ours = "--" + ours.replace("_", "-")
            if name in option.other_names and ours in flags:
                return f"there is no {flag}; {option.other_names[name]}'s {name} is {ours} here"
    return f"there is no {flag}.{did_you_mean(flag, flags)}".rstrip(".")
