"""Stop strings: the tokens that end an answer, and where in a text it ends.

A stop string may be a special, an added or an ordinary token, several tokens, or part of one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any


def stop_tokens(tokenizer: Any, stops: Sequence[str], vocab_size: int | None) -> list[int]:
    """The ids of those stop strings that are one token each; no later token changes such an end."""
    added = {str(token): i for i, token in tokenizer.added_tokens_decoder.items()}
    found = []
    for stop in filter(None, stops):
        token = added.get(stop)
        if token is None:
            try:
                ids = tokenizer(stop, add_special_tokens=False)["input_ids"]
            except Exception:  # of tokenizers, which raises no other class; the text is cut then
                continue
            if len(ids) != 1 or tokenizer.decode(ids) != stop:
                continue
            token = int(ids[0])
        # the mask is never written, and what the model cannot write neither
        if token != tokenizer.mask_token_id and (vocab_size is None or token < vocab_size):
            found.append(token)
    return found


def cut(tokenizer: Any, ids: Sequence[int], stops: Sequence[str], *, special: bool) -> str:
    """The text of `ids` before the first stop string.

    Args:
        tokenizer: decodes.
        ids: of the answer.
        stops: strings; empty ones stop nothing.
        special: whether special tokens show in the text. They are looked through in any case.
    """
    stops = [stop for stop in stops if stop]

    # Decoded from the start every time: a token's text depends on those before it.
    def text(count: int, show: bool = True) -> str:
        return str(tokenizer.decode(list(ids[:count]), skip_special_tokens=not show))

    def first(where: str) -> int:
        return min((at for stop in stops if (at := where.find(stop)) >= 0), default=-1)

    if not special and first(text(len(ids))) >= 0:
        # of the tokens up to the end of the stop string, those that lie before it as a whole
        upto = bisect_left(range(len(ids)), True, key=lambda k: first(text(k + 1)) >= 0) + 1
        before = text(upto)[: first(text(upto))]
        whole = bisect_left(range(upto), True, key=lambda k: len(text(k + 1)) > len(before))
        rest = before[len(text(whole)) :]
        # a part of a token shows where the token does
        shown = rest if len(text(whole + 1, False)) > len(text(whole, False)) else ""
        answer = text(whole, False) + shown
    else:
        answer = text(len(ids), special)
    at = first(answer)
    return answer if at < 0 else answer[:at]
