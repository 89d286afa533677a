"""Files with a prompt on each line, JSONL or plain text, as every command reads them.

A line ends with a line feed, or a carriage return and a line feed, and with nothing else: JSON
text may hold other separators (U+2028). A byte order mark is skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdm_schedules.checks import shown
from mdm_schedules.errors import FormatError, StorageError
from mdm_schedules.files import local_path

_JSONL = (".jsonl", ".json", ".ndjson")
_MARK = b"\xef\xbb\xbf"


def check_prompt_file(path: str | os.PathLike[str]) -> Path:
    """`path` by the rule of paths; StorageError where no file is."""
    file = local_path(path)
    if not os.path.isfile(file):
        what = "is not a file" if os.path.exists(file) else "does not exist"
        raise StorageError(
            f"cannot read the prompt file {shown(str(file))}: it {what}; for a single prompt "
            "give a list of one"
        )
    return file


def is_jsonl(path: Path) -> bool:
    """Whether the name says that each line is JSON, in upper or lower case."""
    return path.suffix.lower() in _JSONL


def prompt_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(_MARK) if number == 1 else line
                if line.strip():
                    yield number, line.rstrip(b"\r\n")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def parse_line(line: bytes, jsonl: bool) -> Any:
    """The text of a line, or the value that its JSON says.

    Raises:
        FormatError: what is wrong with it, without its place.
    """
    try:
        text = line.decode("utf-8")
        return json.loads(text) if jsonl else text
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text ({error.reason} at byte {error.start})"
    except json.JSONDecodeError as error:
        what = f"not JSON ({error.msg} at column {error.colno})"
    except RecursionError:
        what = "not JSON of a bearable depth"
    except ValueError:
        what = "not JSON that can be read (an integer of too many digits)"
    raise FormatError(what)
