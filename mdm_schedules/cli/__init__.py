"""The command line. Exit status 0 is done, 1 an error told in one line, 2 wrong usage.

A new command is a function and its arguments in a module beside this one, which `_MODULES` lists.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from mdm_schedules.cli import convert, demo, evaluate, hub, sampling, schedules, tune
from mdm_schedules.errors import MDMError

_MODULES = (demo, sampling, schedules, hub, tune, evaluate, convert)


def _parser() -> argparse.ArgumentParser:
    from mdm_schedules._version import __version__

    parser = argparse.ArgumentParser(
        prog="mdm-schedules", description="Mask schedules for masked diffusion models."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--json", action="store_true", help="print JSON for machines")
        sub.set_defaults(run=run)
        return sub

    for module in _MODULES:
        module.add(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    args.argv = list(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has what it wanted, as in `mdm-schedules list | head -1`
        # or Python complains at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (MDMError, OSError) as error:
        print(f"mdm-schedules: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
