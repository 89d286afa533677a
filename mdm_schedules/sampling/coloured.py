"""Sequences as HTML, each token coloured by the pass that revealed it, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from typing import Any

_EARLY, _LATE = (200, 225, 255), (255, 205, 150)  # red, green, blue
_TOKENS = 1024  # of each row that are shown
_STYLE = "font-family:monospace;white-space:pre-wrap;color:black;background:white;padding:4px"


def coloured(
    title: str,
    rows: Iterable[tuple[Sequence[int], Sequence[int]]],
    passes: int,
    tokenizer: Any,
    left_out: int,
) -> str:
    """The rows one below the other, prompts without colour, padding left out.

    Args:
        title: what stands above them.
        rows: token ids, and for each the pass that revealed it: 0 where it was given, below 0 on
            padding.
        passes: of the whole run.
        tokenizer: of the model; None shows the ids.
        left_out: rows that are not shown.
    """
    parts = [f"<div><b>{escape(title)}</b>: {_mark('first pass', 1, passes)}"]
    parts.append(f" to {_mark('last', passes, passes)}</div>")
    for tokens, when in rows:
        kept = [pair for pair in zip(tokens, when, strict=True) if pair[1] >= 0]
        text = "".join(_mark(*piece, passes) for piece in _pieces(kept[:_TOKENS], tokenizer))
        cut = " ..." if len(kept) > _TOKENS else ""
        parts.append(f'<div style="{_STYLE}">{text}{cut}</div>')
    if left_out > 0:
        parts.append(f"<div>and {left_out} more</div>")
    return "".join(parts)


def _mark(text: str, one: int, passes: int) -> str:
    if not one:
        return escape(text)
    late = (one - 1) / max(1, passes - 1)
    mixed = (round(a + (b - a) * late) for a, b in zip(_EARLY, _LATE, strict=True))
    colour = ",".join(map(str, mixed))
    style = f"background:rgb({colour});color:black"
    return f'<span style="{style}" title="pass {one}">{escape(text)}</span>'


def _pieces(kept: Sequence[tuple[int, int]], tokenizer: Any) -> Iterable[tuple[str, int]]:
    """Text and pass of each run of tokens that one pass revealed.

    A token's text may depend on those before it (spaces, characters of several tokens), so that
    pieces are differences of longer and longer beginnings.
    """
    if tokenizer is None:
        return [(f"{token} ", one) for token, one in kept]
    ids = [token for token, _ in kept]
    pieces, done, end = [], "", 0
    for one, run in groupby(kept, key=lambda pair: pair[1]):
        end += len(list(run))
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and end < len(ids):  # half a character: the next run has it
            continue
        pieces.append((text[len(done) :], one))
        done = text
    return pieces
