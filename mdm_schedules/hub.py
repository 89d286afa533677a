"""Schedules as files: schedule.json, and schedule.safetensors for the knots of a table.

Only JSON and safetensors are read, never pickles and never code. A folder may hold a model beside them.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdm_schedules.errors import FormatError, InvalidTypeError, MDMError, StorageError, shown
from mdm_schedules.registry import build
from mdm_schedules.schedules import Schedule

SCHEDULE_FILE = "schedule.json"
TENSOR_FILE = "schedule.safetensors"
FORMAT_VERSION = "1.0"
MAX_JSON_BYTES = 1 << 20
MAX_TENSOR_BYTES = 1 << 26
LONG_TUPLE = 16  # longer parameters go to the tensor file
MAX_DEPTH = 16


def local_path(path: str | os.PathLike[str]) -> Path:
    """`path` with ~ expanded; what cannot be a path is refused."""
    try:
        return Path(path).expanduser()
    except TypeError:
        raise InvalidTypeError(f"a path must be text or a pathlib.Path, got {shown(path)}") from None
    except RuntimeError as error:  # no such user
        raise StorageError(f"cannot use the path {shown(path)}: {error}") from None


def write_atomically(path: Path, write: Callable[[str], object]) -> None:
    """Call `write` with a temporary name in the same folder, then rename: readers see the old file or the new one."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise StorageError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def save_schedule(schedule: Schedule, path: str | os.PathLike[str]) -> None:
    """Write `schedule` into the folder `path`, made if missing. Raises FormatError if it cannot be serialised."""
    folder = local_path(path)
    tensors: dict[str, tuple[float, ...]] = {}
    document = {"format_version": FORMAT_VERSION, "time": "generation", **_to_json(schedule, "", tensors)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot make the folder {folder}: {getattr(error, 'strerror', None) or error}") from error
    if tensors:
        import torch
        from safetensors.torch import save_file

        data = {key: torch.tensor(values, dtype=torch.float64) for key, values in tensors.items()}
        write_atomically(folder / TENSOR_FILE, lambda name: save_file(data, name))
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / SCHEDULE_FILE, lambda name: Path(name).write_text(text, encoding="utf-8"))


def _to_json(schedule: Schedule, prefix: str, tensors: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    schedule.spec  # noqa: B018 - raises FormatError for what cannot be written
    params: dict[str, Any] = {}
    for key, value in schedule.params.items():
        if isinstance(value, Schedule):
            params[key] = _to_json(value, f"{prefix}{key}.", tensors)
        elif isinstance(value, tuple) and len(value) > LONG_TUPLE and all(type(x) is float for x in value):
            tensors[prefix + key] = value
            params[key] = {"tensor": prefix + key}
        else:
            params[key] = value
    return {"name": schedule.name, "params": params}


def load_schedule(path: str | os.PathLike[str]) -> Schedule:
    """Read a schedule from a folder, or from its schedule.json.

    Raises:
        StorageError: nothing there, or unreadable.
        FormatError: not the format of `save_schedule`, or of a newer major version.
    """
    file = local_path(path)
    if os.path.isdir(file):
        file = file / SCHEDULE_FILE
    document = _read_json(file)
    version = document.get("format_version")
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", version):
        raise FormatError(f"{file}: format_version must be text like {FORMAT_VERSION!r}, got {shown(version)}")
    if int(version.split(".")[0]) > int(FORMAT_VERSION.split(".")[0]):
        raise FormatError(
            f"{file} has format version {version}; this library reads {FORMAT_VERSION}: upgrade mdm-schedules"
        )
    if document.get("time") != "generation":
        raise FormatError(f"{file}: time must be 'generation', got {shown(document.get('time'))}")
    try:
        return _from_json(document, _Tensors(file.parent / TENSOR_FILE), 0)
    except StorageError:
        raise
    except MDMError as error:
        raise FormatError(f"{file}: {error}") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        _check_size(file, MAX_JSON_BYTES)
        text = file.read_text(encoding="utf-8")
    except MDMError:
        raise
    except FileNotFoundError:
        raise StorageError(f"no schedule at {file}; save one with schedule.save_pretrained(folder)") from None
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text: {error.reason}") from None
    except ValueError as error:  # a path with a null character or a lone surrogate
        raise StorageError(f"cannot read {shown(str(file))}: {error}") from None
    try:
        document = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except FormatError as error:
        raise FormatError(f"{file}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise FormatError(f"{file} must hold a JSON object, got {type(document).__name__}")
    return document


def _check_size(file: Path, limit: int) -> None:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
        raise StorageError(f"{file} is not a file")
    if status.st_size > limit:
        raise FormatError(f"{file} has more than {limit} bytes")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise FormatError("a key appears twice")
    return dict(pairs)


def _no_constants(text: str) -> Any:
    raise FormatError(f"{text} is not a number that JSON allows")


class _Tensors:
    """The tensor file, opened when a parameter points into it; each tensor is read once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.read: dict[str, tuple[float, ...]] = {}

    def __getitem__(self, key: str) -> tuple[float, ...]:
        if key not in self.read:
            self.read[key] = self._read(key)
        return self.read[key]

    def _read(self, key: str) -> tuple[float, ...]:
        from safetensors import SafetensorError, safe_open

        try:
            _check_size(self.file, MAX_TENSOR_BYTES)
            with safe_open(self.file, framework="pt") as tensors:
                if key not in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                    raise FormatError(f"{self.file} has no tensor {shown(key)}")
                kind, shape = tensors.get_slice(key).get_dtype(), tensors.get_slice(key).get_shape()
                if kind != "F64" or len(shape) != 1:
                    raise FormatError(f"{self.file}: tensor {shown(key)} must be float64 [n], got {kind} {shape}")
                return tuple(tensors.get_tensor(key).tolist())
        except MDMError:
            raise
        except FileNotFoundError:
            raise StorageError(f"{self.file} is missing, which {SCHEDULE_FILE} refers to") from None
        except OSError as error:
            raise StorageError(f"cannot read {self.file}: {error}") from error
        except SafetensorError as error:
            raise FormatError(f"{self.file} is not a whole safetensors file: {error}") from None


def _from_json(node: dict[str, Any], tensors: _Tensors, depth: int) -> Schedule:
    name, params = node.get("name"), node.get("params", {})
    if depth > MAX_DEPTH or not isinstance(name, str) or not isinstance(params, dict):
        raise FormatError(f"a schedule needs a name (text) and params (an object), at most {MAX_DEPTH} deep")
    values: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, dict) and set(value) == {"tensor"}:
            values[key] = tensors[str(value["tensor"])]
        elif isinstance(value, dict):
            values[key] = _from_json(value, tensors, depth + 1)
        else:
            values[key] = _as_tuples(value)
    return build(name, [], values)


def _as_tuples(value: Any) -> Any:
    """JSON has no tuples; every list in a file was one."""
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
