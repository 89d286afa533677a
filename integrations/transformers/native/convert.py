"""Released form to native form and back, file by file, without loading a model.

A weight is renamed, split or joined as bytes, so that its values are the same whatever its dtype,
and memory stays at a few megabytes. Each file is written under a temporary name and renamed when
it is whole; a journal keeps its checksum, so that a conversion that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdm_schedules.errors import FormatError, InvalidValueError, StorageError
from mdm_schedules.files import write_atomically
from mdm_schedules.integrations.transformers.native.card import write_card
from mdm_schedules.integrations.transformers.native.checkpoint import (
    INDEX,
    SINGLE,
    Checkpoint,
    Weight,
    fetched,
    read_json,
)
from mdm_schedules.integrations.transformers.native.families import FAMILIES, Family, family_of
from mdm_schedules.integrations.transformers.native.loading import (
    check_weights,
    expected_shapes,
    native_config,
    released_config,
)
from mdm_schedules.integrations.transformers.native.modeling import NATIVE
from mdm_schedules.integrations.transformers.native.tokenizer import load_tokenizer

JOURNAL, CHECKSUMS = ".convert.json", "checksums.json"
SHARD_BYTES = 5 << 30
CHUNK = 1 << 22
# what comes along as it is; never code
BESIDE = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "schedule.json",
    "schedule.safetensors",
    "LICENSE",
]


@dataclass(frozen=True)
class Entry:
    """One weight of the new form: `pieces` of old files, one after another."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Weight, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(piece.stop - piece.start for piece in self.pieces)


def convert(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    to: str = "native",
    shard_bytes: int = SHARD_BYTES,
    told: Callable[[int, int], object] | None = None,
    **options: Any,
) -> dict[str, str]:
    """Write the model at `source` to `folder` in the other form.

    Args:
        source: folder or Hub id; a released model, or with `to="released"` a native one.
        folder: new, empty, or one in which the same conversion was stopped.
        to: "native" or "released".
        shard_bytes: largest size of a file; a weight is never cut.
        told: called with the numbers of finished and of all files.
        **options: revision, token, cache_dir, ... as from_pretrained takes them; mask_token_id.

    Returns:
        File name -> SHA-256 of every weight file, which checksums.json in `folder` keeps, too.

    Raises:
        MDMError: see `load_native`; StorageError if the disk is full. Running it again goes on.
    """
    target = Path(folder).expanduser()
    if to == "native":
        config, entries = _to_native(source, options)
    elif to == "released":
        config, entries = _to_released(source, options)
    else:
        raise InvalidValueError(f"to must be 'native' or 'released', got {to!r}")
    shards = _shards(entries, shard_bytes)
    names = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    )
    plan = _plan(config, names, shards)
    done = _resumed(target, plan)
    for number, (name, shard) in enumerate(zip(names, shards, strict=True)):
        if told is not None:
            told(number, len(names))
        if done.get(name) is None or _sha256(target / name) != done[name]:
            done[name] = _write(target / name, shard)
            _save(target / JOURNAL, {"plan": plan, "done": done})
    if len(shards) > 1:
        where = {e.name: name for name, part in zip(names, shards, strict=True) for e in part}
        total = sum(entry.size for entry in entries)
        _save(target / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    _beside(source, target, options, native=to == "native")
    if to == "native" and config.get("base_model"):
        write_card(target, config["base_model"])
    _save(target / CHECKSUMS, {name: done[name] for name in names})
    _save(target / "config.json", config)  # last: without it a folder is no model
    (target / JOURNAL).unlink(missing_ok=True)
    if told is not None:
        told(len(names), len(names))
    return {name: done[name] for name in names}


def _to_native(source: Any, options: dict[str, Any]) -> tuple[dict[str, Any], list[Entry]]:
    family, config = native_config(source, options, released_config(source, options))
    files = Checkpoint(source, options)
    rows = family.fused_rows(config.to_dict())
    entries: list[Entry] = []
    for released in check_weights(family, config, files):
        whole = files[released]
        parts = family.native_names(released)
        if len(parts) == 1:
            entries.append(Entry(parts[0][0], whole.dtype, whole.shape, (whole,)))
            continue
        each, start = (whole.stop - whole.start) // whole.shape[0], whole.start
        for (name, _), count in zip(parts, rows, strict=True):
            shape, stop = (count, *whole.shape[1:]), start + count * each
            piece = Weight(whole.file, whole.dtype, shape, start, stop)
            entries.append(Entry(name, whole.dtype, shape, (piece,)))
            start = stop
    written = json.loads(config.to_json_string(use_diff=False))
    written["model_type"] = family.native
    return written, entries


def _to_released(source: Any, options: dict[str, Any]) -> tuple[dict[str, Any], list[Entry]]:
    native = released_config(source, options)
    if native.get("model_type") not in NATIVE:
        raise InvalidValueError(
            f"{source} holds no native model (model_type {native.get('model_type')!r}), so it "
            "cannot be written in a released form"
        )
    family = _family_of_native(native)
    config = NATIVE[native["model_type"]][0].from_dict(native)
    files = Checkpoint(source, options)
    wanted = expected_shapes(config)
    missing = [
        name
        for name, shape in wanted.items()
        if name not in files or files[name].shape != shape
        if not (name == "lm_head.weight" and config.tie_word_embeddings)
    ]
    if missing:
        raise FormatError(f"weights are missing or misshapen: {', '.join(missing[:4])}")
    joined: dict[str, dict[int | None, Weight]] = {}
    for name in files:
        if name in wanted:
            released, part = family.released_name(name)
            joined.setdefault(released, {})[part] = files[name]
    entries = []
    for released, parts in joined.items():
        pieces = tuple(parts[key] for key in sorted(parts, key=lambda x: x or 0))
        rows = sum(piece.shape[0] for piece in pieces) if len(pieces) > 1 else 0
        shape = (rows, *pieces[0].shape[1:]) if rows else pieces[0].shape
        entries.append(Entry(released, pieces[0].dtype, shape, pieces))
    return family.released_config(config.to_dict()), entries


def _family_of_native(native: dict[str, Any]) -> Family:
    released = native.get("released")
    family = family_of(released) if isinstance(released, dict) else None
    if family is None or family.native != native["model_type"]:
        names = ", ".join(x.name for x in FAMILIES if x.native == native["model_type"])
        raise InvalidValueError(
            "config.json does not tell of which release this native model is ('released' is "
            f"missing or of another kind), so its form is not known; it may be: {names}"
        )
    return family


def _shards(entries: list[Entry], shard_bytes: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.size > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    return shards


def _plan(config: dict[str, Any], names: list[str], shards: list[list[Entry]]) -> str:
    """A fingerprint of what is to be written, and from which files as they are now."""
    files = {piece.file for shard in shards for entry in shard for piece in entry.pieces}
    state = [(str(x.resolve()), x.stat().st_size, x.stat().st_mtime_ns) for x in sorted(files)]
    text = json.dumps([config, names, state], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _resumed(target: Path, plan: str) -> dict[str, str]:
    """Checksums of the files that an earlier run of the same plan finished."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        present = {entry.name for entry in target.iterdir() if not entry.name.endswith(".tmp")}
        for torn in target.glob(".*.tmp"):
            torn.unlink()
    except OSError as error:
        raise StorageError(f"cannot write to {target}: {error.strerror or error}") from error
    if JOURNAL in present:
        journal = read_json(target / JOURNAL)
        if journal.get("plan") == plan and isinstance(journal.get("done"), dict):
            return {k: v for k, v in journal["done"].items() if k in present}
    if present:
        raise StorageError(
            f"{target} is not empty, and holds no stopped conversion of these weights; "
            "give a new folder"
        )
    return {}


def _write(path: Path, shard: list[Entry]) -> str:
    """Write one safetensors file, whole or not at all; returns its SHA-256."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for entry in shard:
        end = place + entry.size
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()

    def write(name: str) -> None:
        with open(name, "wb") as out:
            for block in _blocks(text, shard):
                digest.update(block)
                out.write(block)

    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    if place + len(text) > free:
        raise StorageError(
            f"{path.name} needs {place + len(text)} bytes, but the disk of {path.parent} has "
            f"{free} left; make room and run it again: finished files are kept"
        )
    try:
        write_atomically(path, write)
    except StorageError as error:
        raise StorageError(f"{error}; finished files are kept, run it again") from error
    return digest.hexdigest()


def _blocks(header: bytes, shard: list[Entry]) -> Iterator[bytes]:
    yield len(header).to_bytes(8, "little") + header
    for entry in shard:
        for piece in entry.pieces:
            with piece.file.open("rb") as stream:
                stream.seek(piece.start)
                left = piece.stop - piece.start
                while left:
                    block = stream.read(min(CHUNK, left))
                    if not block:
                        raise StorageError(f"{piece.file} became shorter while it was read")
                    left -= len(block)
                    yield block


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(CHUNK):
                digest.update(block)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _save(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def _beside(source: Any, target: Path, options: dict[str, Any], native: bool) -> None:
    """Tokenizer, generation options and schedule; a tokenizer that is code as its equivalent."""
    found = {name: fetched(source, name, options) for name in BESIDE}
    config = found.get("tokenizer_config.json")
    coded = config is not None and "auto_map" in read_json(config)
    for name, file in found.items():
        is_tokenizer = name not in ("generation_config.json", "LICENSE") and "schedule" not in name
        if file is not None and not (coded and native and is_tokenizer):
            _copy(file, target / name)
    if coded and native:
        load_tokenizer(source, **options).save_pretrained(target)


def _copy(file: Path, to: Path) -> None:
    try:
        shutil.copyfile(file, to)
    except OSError as error:
        raise StorageError(f"cannot write {to}: {error.strerror or error}") from error
