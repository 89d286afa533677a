"""What a tokenizer says of the ids that a model may draw."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mdm_schedules.errors import InvalidTypeError, InvalidValueError


def ids_without_token(tokenizer: Any, vocab_size: int | None) -> list[int]:
    """The ids below `vocab_size` that the tokenizer has no token for.

    Models often have more outputs than their tokenizer has tokens (Dream, padded embeddings); such
    an id has no text, and tokenizers written in Python raise at it. Empty where either is not
    known.
    """
    if tokenizer is None or vocab_size is None:
        return []
    try:
        known = set(tokenizer.get_vocab().values())
    except (AttributeError, NotImplementedError):  # no tokenizer of transformers
        if not hasattr(tokenizer, "__len__"):
            return []
        known = set(range(len(tokenizer)))
    return [token for token in range(vocab_size) if token not in known]


def special_ids(tokenizer: Any) -> set[int]:
    """The ids of special tokens: those with a role, and those added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return {
        *(getattr(tokenizer, "all_special_ids", None) or ()),
        *(token for token, one in added.items() if getattr(one, "special", False)),
    }


def undrawable(
    tokenizer: Any, vocab_size: int | None, special: bool = False, ends: Iterable[int] = ()
) -> list[int]:
    """The ids that are never drawn with this tokenizer.

    Args:
        tokenizer: of the model; None where it is not known.
        vocab_size: of the model; None where it is not known.
        special: whether special tokens are kept out, too.
        ends: ids that end an answer, which stay.

    Raises:
        InvalidTypeError: `special` without a tokenizer.
        InvalidValueError: the tokenizer has a token for none of the model's ids.
    """
    if special and not hasattr(tokenizer, "all_special_ids"):
        raise InvalidTypeError(
            f"suppress_special_tokens needs the model's tokenizer, got {type(tokenizer).__name__}; "
            "write generate(..., tokenizer=tokenizer, suppress_special_tokens=True)"
        )
    never = ids_without_token(tokenizer, vocab_size)
    if vocab_size is not None and len(never) == vocab_size:
        raise InvalidValueError(
            f"the tokenizer ({type(tokenizer).__name__}) has a token for none of the model's "
            f"{vocab_size} ids; give that of this model"
        )
    if not special:
        return never
    kept = set(ends)
    return sorted({*never, *(token for token in special_ids(tokenizer) if token not in kept)})
