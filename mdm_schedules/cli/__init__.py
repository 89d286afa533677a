"""The command line.

Exit status 0 is done, 1 an error reported in one line, 2 wrong usage, 130 Ctrl-C, and 128 + n an
end by signal n. A new command is a function and its arguments in a
module beside this one, which `parser.MODULES` lists.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mdm_schedules.cli.parser import Stop, build_parser, read
from mdm_schedules.cli.signals import goes_on, is_quiet, number_of, stoppable
from mdm_schedules.cli.streams import check_arguments, drop_output, prepared_streams
from mdm_schedules.cli.words import in_flags
from mdm_schedules.errors import MDMError

ISSUES = "https://github.com/mdm-schedules/mdm-schedules/issues"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        argv: the words after the program's name; by default those of this process.

    Raises:
        SystemExit: for --help, --version and wrong usage, as argparse does.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    seen = Stop()
    with prepared_streams(), stoppable():
        try:
            if sys.stdout is None:
                return _tell("standard output is closed; give it a place, such as >/dev/null")
            # Inside the `try`, so that whatever is typed ends in one line and a status.
            check_arguments(words)
            parser, seen.command = build_parser(words)
            seen.args = read(parser, seen.command, words)
            seen.args.run(seen.args)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has what it wanted, as in `mdm-schedules list | head`
            drop_output()
            return 141
        except KeyboardInterrupt as stop:
            drop_output()
            # A shell's convention for a process that a signal ended: 130 after Ctrl-C.
            status = 128 + number_of(stop)
            return status if is_quiet() else _tell(goes_on(stop, seen.args), status)
        except (MDMError, OSError) as error:
            drop_output()
            return _tell(in_flags(_text(error), seen.command))
        except Exception as error:  # nothing that is typed may end in a traceback
            if os.environ.get("MDM_SCHEDULES_DEBUG"):
                raise
            drop_output()
            return _tell(
                f"unexpected {type(error).__name__}: {str(error)[:300]} (MDM_SCHEDULES_DEBUG=1 "
                f"shows where; please report it at {ISSUES})"
            )
    return 0


def _text(error: MDMError | OSError) -> str:
    if isinstance(error, MDMError) or not error.strerror:
        return str(error) or type(error).__name__
    return error.strerror + (f": {error.filename}" if error.filename else "")


def _tell(text: str, status: int = 1) -> int:
    print(f"mdm-schedules: {' '.join(text.split())}", file=sys.stderr)
    return status
