"""Standard input, output and error as they really are: closed, full, or not UTF-8."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mdm_schedules.cli.progress import Lines
from mdm_schedules.errors import InvalidValueError


@contextmanager
def prepared_streams() -> Iterator[None]:
    """Standard streams that take any text; where nobody watches, progress as lines."""
    _fill_descriptors()
    error = sys.stderr
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            # what the encoding lacks is shown as \u2588
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if error is None:  # print(file=None) would write to standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    # A bar drawn with carriage returns makes an unreadable log.
    elif not error.isatty():
        lines: Any = Lines(error)
        sys.stderr = lines
    try:
        yield
    finally:
        if error is None or isinstance(sys.stderr, Lines):
            sys.stderr.flush()
            sys.stderr = error


def _fill_descriptors() -> None:
    """Give a closed descriptor to the null device, or a file that is opened next would get it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def drop_output() -> None:
    """Print what is left; where that cannot be, forget it, or Python complains at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        with suppress(OSError, ValueError, AttributeError):
            # Python flushes once more at its end, and would complain of the closed pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_arguments(words: Sequence[str]) -> None:
    """Refuse text that is not UTF-8, which Python passes on as lone surrogates."""
    for number, word in enumerate(words):
        try:
            word.encode()
        except UnicodeEncodeError as error:
            before = words[number - 1] if number and words[number - 1].startswith("-") else ""
            flag = before or f"argument {number + 1}"
            byte = ord(word[error.start]) - 0xDC00
            what = f"byte 0x{byte:02x}" if 0 <= byte < 256 else "a lone surrogate"
            raise InvalidValueError(
                f"{flag} is not valid UTF-8: {what} after {error.start} characters"
            ) from None
