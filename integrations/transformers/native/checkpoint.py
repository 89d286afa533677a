"""The weights of a folder or repository, by the headers of its safetensors files.

Everything that can be wrong with files is found here, before a weight is read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdm_schedules.checks import shown
from mdm_schedules.errors import FormatError, StorageError
from mdm_schedules.hub.client import download_options

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")
MAX_HEADER = 1 << 27
MAX_JSON = 1 << 27
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class Weight:
    """Where one weight lies: bytes [start, stop) of `file`, counted from the file's start."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def fetched(path: str | os.PathLike[str], name: str, options: Mapping[str, Any]) -> Path | None:
    """The file `name` of a folder or Hub repository, on this machine; None if there is none.

    Raises:
        StorageError: `path` is neither a folder nor the id of a repository.
    """
    from transformers.utils import cached_file

    known = download_options(options)
    folder = Path(path)
    if os.path.isdir(folder):
        file = folder / known.get("subfolder", "") / name
        return file if os.path.isfile(file) else None
    if not _HUB_ID.fullmatch(os.fspath(path)):
        raise StorageError(f"there is no folder {shown(os.fspath(path))}")
    found = cached_file(
        os.fspath(path),
        name,
        _raise_exceptions_for_missing_entries=False,
        **known,
    )
    return None if found is None else Path(found)


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`; what is no JSON object is refused."""
    try:
        if file.stat().st_size > MAX_JSON:
            raise FormatError(f"{file} is larger than {MAX_JSON >> 20} MiB, which no such file is")
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise FormatError(f"{file} holds no JSON object, but {shown(found)}")
    return found


class Checkpoint(Mapping[str, Weight]):
    """The weights by name; only headers are read.

    Raises:
        StorageError: no safetensors file, or a shard that is missing.
        FormatError: a file that is torn, or no safetensors file.
    """

    def __init__(self, path: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
        self.weights: dict[str, Weight] = {}
        variant = options.get("variant")
        names = [_variant(name, variant) for name in (SINGLE, INDEX)]
        single = fetched(path, names[0], options)
        if single is not None:
            self.weights = read_header(single)
            return
        index = fetched(path, names[1], options)
        if index is None:
            raise _no_weights(path, options, variant)
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(x, str) for x in listed.values()):
            raise FormatError(f"{index} has no weight_map of names to files")
        # The index comes from a stranger: a shard must lie beside it, be there, and hold what is
        # listed.
        for name in sorted(set(listed.values())):
            if Path(name).name != name:
                raise FormatError(f"{index} names the file {name!r}, which is not beside it")
            file = fetched(path, name, options)
            if file is None:
                raise StorageError(f"{index} names the shard {name}, which is not there")
            self.weights |= {
                key: weight
                for key, weight in read_header(file).items()
                if listed.get(key, name) == name
            }
        absent = sorted(listed.keys() - self.weights.keys())
        if absent:
            raise FormatError(f"{index} lists weights that their files lack: {some(absent)}")

    def __getitem__(self, name: str) -> Weight:
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def _variant(name: str, variant: str | None) -> str:
    """model.safetensors -> model.fp16.safetensors, and the index likewise."""
    if not variant:
        return name
    stem, _, end = name.rpartition(".")
    return f"{stem}.{variant}.{end}"


def _no_weights(
    path: Any, options: Mapping[str, Any], variant: str | None
) -> StorageError | FormatError:
    pickle = next((name for name in PICKLES if fetched(path, name, options) is not None), None)
    if pickle is None:
        wanted = f" of variant {variant!r}" if variant else ""
        return StorageError(f"{path} holds no weights{wanted}: neither {SINGLE} nor {INDEX}")
    return FormatError(
        f"{path} keeps its weights in {pickle}, a pickle, which can run any code when opened; "
        "if you trust it, convert it once: from safetensors.torch import save_file; "
        "save_file({k: v.clone() for k, v in torch.load('pytorch_model.bin', weights_only=True)"
        ".items()}, 'model.safetensors', {'format': 'pt'}), or use "
        "https://huggingface.co/spaces/safetensors/convert"
    )


def read_header(file: Path) -> dict[str, Weight]:
    """What a safetensors file says that it holds; checked against its length.

    Raises:
        FormatError: the file is shorter than its header says, or its header is none.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            # safetensors: 8 bytes of length, a JSON header, then the data without gaps.
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise FormatError(
                    f"{file} is torn or no safetensors file (its header has no end); fetch it again"
                )
            header = json.loads(stream.read(length))
        weights = {
            name: _weight(file, entry, 8 + length)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{file} is no safetensors file: {error}") from error
    end = max((weight.stop for weight in weights.values()), default=8 + length)
    if end != size:
        raise FormatError(
            f"{file} is torn: its header tells of {end} bytes, but it has {size}; fetch it again"
        )
    return weights


def _weight(file: Path, entry: dict[str, Any], base: int) -> Weight:
    start, stop = entry["data_offsets"]
    shape = tuple(int(x) for x in entry["shape"])
    count = 1
    for size in shape:
        count *= size
    # In bits, since a value may take less than a byte; the types are read by safetensors itself.
    if not 0 <= start <= stop or (count and 8 * (stop - start) % count):
        raise FormatError(f"{file} is no safetensors file: shapes and lengths disagree")
    return Weight(file, str(entry["dtype"]), shape, base + start, base + stop)


def some(names: list[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
