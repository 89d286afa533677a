"""Prompts from lists, files and streams of unknown length, in windows cut into batches.

Each window is sorted by length before it is cut. A window and its batches depend on the prompts and
the batch size alone, never on the number of processes or on what was done before a restart; so the
model sees the same batches whatever runs them, even one that is not batch-invariant.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import FormatError, InvalidTypeError, InvalidValueError
from mdm_schedules.prompt_files import check_prompt_file, is_jsonl, parse_line, prompt_lines

_ID_BITS = 1024  # of an id; Python prints no integer of more than 4300 digits
WINDOW = 2048  # prompts that are sorted by length together, and at most held at once

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Prompt:
    """One prompt: text or token ids, or what is wrong with it.

    Attributes:
        index: place in the stream, from 0; a line that cannot be read takes one too.
        where: how messages name it.
        content: text, token ids int64 [P], or None if there is an error.
        id: the user's own name for it; None if there is none.
        error: what is wrong.
    """

    index: int
    where: str
    content: str | Ids | None
    id: Any = None
    error: str | None = None

    @property
    def ids(self) -> Ids:
        """The token ids of an encoded prompt; none of one with an error."""
        return self.content if isinstance(self.content, np.ndarray) else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Window:
    """Up to `WINDOW` prompts in a row.

    `digest` sums up all prompts up to the end of the window, so that one changed before shows in
    every later window; `marked` sums up the first `mark` prompts, in the window that they end in.
    """

    number: int
    prompts: list[Prompt]
    digest: str
    marked: str | None = None


def windows(source: Any, mark: int | None = None) -> Iterator[Window]:
    """All prompts of a path, or of an iterable, in windows.

    An iterable holds text, ids, or mappings with "prompt" and perhaps "id".
    """
    marked: str | None = None
    digest, number, prompts = hashlib.blake2b(digest_size=8), 0, []
    for prompt in _prompts(source):
        content = (
            prompt.content.tobytes() if isinstance(prompt.content, np.ndarray) else prompt.content
        )
        # The digest runs on over the windows, so that each one stands for all prompts up to its
        # end. Its length precedes each entry, or ("ab", "c") would be ("a", "bc").
        entry = repr((prompt.id, content, prompt.error)).encode("utf-8", "backslashreplace")
        digest.update(len(entry).to_bytes(8, "little") + entry)
        prompts.append(prompt)
        if prompt.index + 1 == mark:
            marked = digest.hexdigest()
        if len(prompts) == WINDOW:
            yield Window(number, prompts, digest.hexdigest(), marked)
            number, prompts, marked = number + 1, [], None
    if prompts:
        yield Window(number, prompts, digest.hexdigest(), marked)


def check_source(source: Any) -> Path | None:
    """The path that `source` is, or None for an iterable; anything else is refused."""
    if isinstance(source, str | os.PathLike):
        return check_prompt_file(source)
    if isinstance(source, Mapping | torch.Tensor | bytes) or not isinstance(source, Iterable):
        raise InvalidTypeError(
            "prompts must be a list of texts or of token-id lists, an iterable of those, or the "
            "path of a JSONL or "
            f"text file, got {type(source).__name__}; for example generate_distributed(model, [[5, "
            "6, 7]], ...)"
        )
    return None


def count_prompts(source: Any) -> int | None:
    """How many prompts there are, if that is cheap to know."""
    path = check_source(source)
    if path is not None:
        return sum(1 for _ in prompt_lines(path))
    return len(source) if hasattr(source, "__len__") else None


def _prompts(source: Any) -> Iterator[Prompt]:
    path = check_source(source)
    if path is None:
        for index, item in enumerate(source):
            yield _prompt(index, f"prompt {index}", lambda item=item: item)  # type: ignore[misc]
        return
    jsonl = is_jsonl(path)
    for index, (number, line) in enumerate(prompt_lines(path)):
        where = f"line {number} of {path.name}"
        yield _prompt(index, where, lambda line=line: parse_line(line, jsonl))  # type: ignore[misc]


def _prompt(index: int, where: str, read: Callable[[], Any]) -> Prompt:
    """The prompt that `read` returns, or what is wrong with it."""
    try:
        item, name = read(), None
        if isinstance(item, Mapping):
            name = item.get("id")
            if (
                not isinstance(name, str | int | float | None)
                # NaN is not equal to itself, and JSON has no word for it.
                or (isinstance(name, float) and not math.isfinite(name))
                or (isinstance(name, int) and name.bit_length() > _ID_BITS)
            ):
                raise InvalidTypeError(f'"id" must be text or a number, got {shown(name)}')
            if "prompt" not in item:
                raise InvalidTypeError(
                    f'"prompt" is missing; there are {shown(sorted(map(str, item)))}'
                )
            item = item["prompt"]
        return Prompt(index, where, item if isinstance(item, str) else _token_ids(item), name)
    except (InvalidTypeError, FormatError) as error:
        text = str(error)
    return Prompt(index, where, None, error=text)


def _token_ids(item: Any) -> Ids:
    trouble = InvalidTypeError(
        f"a prompt must be text or a flat list of token ids, got {shown(item)}"
    )
    if isinstance(item, torch.Tensor):
        item = item.cpu().numpy()
    if not isinstance(item, list | tuple | np.ndarray):
        raise trouble
    try:
        ids = np.asarray(item)
    except ValueError:  # ragged
        raise trouble from None
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise trouble
    return ids.astype(np.int64)


@dataclass(frozen=True)
class Encoder:
    """Turns prompts into token ids and finds what `generate` would refuse in them.

    Attributes:
        tokenizer: None if all prompts are ids.
        special: whether the tokenizer adds its special tokens.
        vocab_size: None where it is not known.
        max_length: the longest sequence that the model takes, or None.
        new: tokens written after each prompt.
        mask: the mask token, which a prompt must hold if `new` is 0.
        infill: whether a prompt may hold it.
        skip: an error becomes the prompt's record instead of being raised.
    """

    tokenizer: Any
    special: bool
    vocab_size: int | None
    max_length: int | None
    new: int
    mask: int
    infill: bool
    skip: bool

    def __call__(self, prompts: list[Prompt]) -> list[Prompt]:
        """The prompts as ids.

        Raises:
            InvalidTypeError: text without a tokenizer.
            FormatError, InvalidValueError: a prompt is wrong, unless `skip`.
        """
        texts = [prompt.content for prompt in prompts if isinstance(prompt.content, str)]
        if texts and self.tokenizer is None:
            raise InvalidTypeError(
                "prompts of text need a tokenizer: generate_distributed(..., tokenizer=tokenizer)"
            )
        coded = iter(self._tokenize(texts)) if texts else iter(())
        return [
            self._checked(p, next(coded) if isinstance(p.content, str) else p.content)
            for p in prompts
        ]

    def _tokenize(self, texts: list[str]) -> list[Any]:
        def code(some: list[str]) -> list[Any]:
            return list(
                self.tokenizer(some, add_special_tokens=self.special, verbose=False)["input_ids"]
            )

        try:
            return code(texts)
        except Exception:  # one of them cannot be encoded (a lone surrogate): find out which
            coded: list[Any] = []
            for text in texts:
                try:
                    coded += code([text])
                except Exception as error:
                    coded.append(f"the tokenizer refuses it: {error}")
            return coded

    def _checked(self, prompt: Prompt, ids: Any) -> Prompt:
        # A text in place of ids is the tokenizer's refusal.
        trouble = ids if isinstance(ids, str) else prompt.error
        if trouble is None:
            ids = np.asarray(ids, dtype=np.int64)
            trouble = self._trouble(ids)
        if trouble is None:
            return replace(prompt, content=ids)
        error = f"{prompt.where}: {trouble}"
        if not self.skip:
            kind = FormatError if prompt.error else InvalidValueError
            raise kind(f"{error}; on_error='skip' goes on without it")
        return replace(prompt, content=None, error=error)

    def _trouble(self, ids: Ids) -> str | None:
        size = len(ids) + self.new
        if self.max_length is not None and size > self.max_length:
            return (
                f"prompt and answer take {size} tokens, but the model has positions for "
                f"{self.max_length}"
            )
        if len(ids) and (
            ids.min() < 0 or (self.vocab_size is not None and ids.max() >= self.vocab_size)
        ):
            wrong, bound = int(ids.min() if ids.min() < 0 else ids.max()), self.vocab_size
            return f"token id {wrong} lies outside the vocabulary" + (
                f", [0, {bound - 1}]" if bound else ""
            )
        masks = bool((ids == self.mask).any())
        if masks and not self.infill:
            return "it holds the mask token, which infill=False refuses"
        if not masks and not self.new:
            return "nothing to generate: it holds no mask token, and max_new_tokens is not given"
        return None


def cut(prompts: list[Prompt], batch_size: int, group: Callable[[int], int]) -> list[list[Prompt]]:
    """Batches of at most `batch_size` encoded prompts of about the same length.

    Prompts with errors come by themselves. `group` maps a length to a number; prompts with
    different numbers never share a batch.
    """

    def key(prompt: Prompt) -> int:
        return -1 if prompt.error is not None else group(len(prompt.ids))

    # Neighbours in length share a batch, which wastes the least on padding; the index makes the
    # order, and with it the tickets, the same on every process.
    ordered = sorted(prompts, key=lambda prompt: (key(prompt), len(prompt.ids), prompt.index))
    groups = [list(members) for _, members in groupby(ordered, key)]
    return [
        members[i : i + batch_size]
        for members in groups
        for i in range(0, len(members), batch_size)
    ]
