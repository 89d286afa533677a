"""Tokenizers of released models, without their code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mdm_schedules.errors import MDMError, StorageError
from mdm_schedules.hub.client import download_options
from mdm_schedules.integrations.transformers.native.checkpoint import fetched, read_json

# Python tokenizers of released models that are the byte-level BPE of Qwen2, and nothing more
SAME_AS_QWEN2 = ("DreamTokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast")


def tokenizer_mask(path: str | os.PathLike[str], options: Mapping[str, Any]) -> int | None:
    """The mask token by the tokenizer's files, read as data; None if it has none."""
    config = _json(path, "tokenizer_config.json", options)
    special = _json(path, "special_tokens_map.json", options)
    token = _text(config.get("mask_token")) or _text(special.get("mask_token"))
    if token is None:
        return None
    # Four files may say which id it has; the smallest come first, vocab.json has the most to read.
    for number, entry in (config.get("added_tokens_decoder") or {}).items():
        if _text(entry) == token:
            return int(number)
    added = _json(path, "added_tokens.json", options).get(token)
    if added is not None:
        return int(added)
    whole = _json(path, "tokenizer.json", options)
    for entry in whole.get("added_tokens") or ():
        if _text(entry) == token:
            return int(entry["id"])
    vocabulary = (whole.get("model") or {}).get("vocab") or _json(path, "vocab.json", options)
    found = vocabulary.get(token) if isinstance(vocabulary, dict) else None
    return None if found is None else int(found)


#: at least one of these lies beside a model that has a tokenizer of its own
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def has_tokenizer(path: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> bool:
    """Whether files of a tokenizer are in the folder or repository.

    Without them, newer transformers make an empty tokenizer of the model's default kind, with ids
    of its own for the mask and all else.
    """
    from transformers.utils import cached_file

    files = download_options(kwargs)
    for reason in ("gated_repo", "missing_entries", "connection_errors"):
        files[f"_raise_exceptions_for_{reason}"] = False
    return any(cached_file(path, name, **files) for name in _TOKENIZER_FILES)


def load_tokenizer(path: str | os.PathLike[str], **options: Any) -> Any:
    """The tokenizer at `path`.

    If it is code of the repository: its equivalent from the vocabulary and merges.

    Args:
        path: folder or Hub id.
        **options: as `transformers.AutoTokenizer.from_pretrained` takes them.

    Raises:
        StorageError: there are no files of a tokenizer (newer transformers would make an empty
            one); or the tokenizer is code of which no equivalent is known.
    """
    import transformers
    from transformers.utils import logging

    if os.path.isdir(path) and not has_tokenizer(path, options):
        raise StorageError(
            f"{os.fspath(path)} holds no tokenizer; save it there (tokenizer.save_pretrained), or "
            "pass tokenizer=..."
        )
    config = _json(path, "tokenizer_config.json", options)
    if options.get("trust_remote_code") or "AutoTokenizer" not in (config.get("auto_map") or {}):
        return transformers.AutoTokenizer.from_pretrained(path, **options)
    if config.get("tokenizer_class") not in SAME_AS_QWEN2:
        raise StorageError(
            f"the tokenizer of {path} is code of its repository "
            f"({config.get('tokenizer_class')}), of which no equivalent is known; "
            "load it with AutoTokenizer.from_pretrained(..., trust_remote_code=True)"
        )
    known = {key: value for key, value in options.items() if key != "trust_remote_code"}
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # or it warns of another class, which is the purpose
    try:
        # up to transformers 4 the class of that name without Fast is written in Python
        qwen2 = getattr(transformers, "Qwen2TokenizerFast")  # noqa: B009
        tokenizer = qwen2.from_pretrained(path, **known)
    finally:
        logging.set_verbosity(level)
    # nothing that is saved from here on names the code
    tokenizer.init_kwargs.pop("auto_map", None)
    return tokenizer


def _json(path: Any, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        file = fetched(path, name, options)
        return {} if file is None else read_json(file)
    except MDMError:
        raise
    except OSError:
        return {}


def _text(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
