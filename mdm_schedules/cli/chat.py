"""Prompts as turns of a chat: by the template that comes with a model's tokenizer."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdm_schedules.errors import InvalidValueError, StorageError
from mdm_schedules.files import local_path


def as_turn(tokenizer: Any, content: Any) -> str:
    """The text that the model sees where a user says `content`, up to the start of the answer.

    Args:
        tokenizer: with a chat template.
        content: text, or a list of messages {"role": ..., "content": ...}.

    Raises:
        InvalidValueError: there is no template, or it refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidValueError("the model's tokenizer has no chat template; leave --chat out")
    turns = [{"role": "user", "content": content}] if isinstance(content, str) else content
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program
        raise InvalidValueError(f"the chat template refuses the messages: {error}") from error
    return str(text)


@contextmanager
def chat_prompts(path: Path, tokenizer: Any) -> Iterator[Path]:
    """A file like the one at `path`, line by line, with each prompt as a turn of a chat.

    A line that cannot be read stays as it is, for the reader of prompts to report.
    """
    json_lines = path.suffix in (".jsonl", ".json", ".ndjson")
    with tempfile.TemporaryDirectory(prefix="mdm-schedules-") as folder:
        target = Path(folder, path.stem + ".jsonl")
        try:
            with open(path, "rb") as source, open(target, "wb") as out:
                for line in source:
                    turned = _line(line, json_lines, tokenizer) if line.strip() else line
                    out.write(turned.rstrip(b"\r\n") + b"\n")
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        yield target


def _line(line: bytes, json_lines: bool, tokenizer: Any) -> bytes:
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
        item = json.loads(text) if json_lines else text
    except (ValueError, RecursionError):
        return line
    # What is no prompt is passed on as it is: the reader of the file names its line in the error.
    row = item if isinstance(item, dict) else {"prompt": item}
    said = row.get("prompt", row.get("messages"))
    if isinstance(said, str) or (said is not None and said is row.get("messages")):
        row = {**row, "prompt": as_turn(tokenizer, said)}
    return json.dumps({name: row[name] for name in ("prompt", "id") if name in row}).encode()


@contextmanager
def prompt_file(given: str) -> Iterator[Path]:
    """The file that --prompts names; "-" is a copy of standard input, JSON lines or text."""
    if given != "-":
        yield local_path(given)
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidValueError("--prompts - reads standard input, which is not given here")
    # Copied to a file, because several processes read it, and more than once.
    data = sys.stdin.buffer.read()
    first = next((line for line in data.splitlines() if line.strip()), b"").lstrip(b"\xef\xbb\xbf")
    try:
        json_lines = isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        json_lines = False
    with tempfile.TemporaryDirectory(prefix="mdm-schedules-") as folder:
        target = Path(folder, "standard-input" + (".jsonl" if json_lines else ".txt"))
        target.write_bytes(data)
        yield target
