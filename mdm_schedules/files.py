"""Files that are whole or absent: atomic writes, bounded JSON, tensors by name, and one path rule.

Readers trust nothing: sizes are bounded, links stay in their folder, JSON is strict, and no pickle
is read.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mdm_schedules.checks import shown
from mdm_schedules.errors import (
    FormatError,
    InvalidTypeError,
    MDMError,
    MissingFileError,
    StorageError,
)

FORMAT_VERSION = "1.0"  # of every JSON file that the library writes
MAX_JSON_BYTES = 1 << 20
MAX_TENSOR_BYTES = 1 << 26


def local_path(path: str | os.PathLike[str]) -> Path:
    """`path` with ~ expanded; what cannot be a path is refused."""
    try:
        return Path(path).expanduser()
    except TypeError:
        raise InvalidTypeError(
            f"a path must be text or a pathlib.Path, got {shown(path)}"
        ) from None
    except RuntimeError as error:  # no such user
        raise StorageError(f"cannot use the path {shown(path)}: {error}") from None


def inside(folder: Path, name: str) -> Path:
    """The file `name` of `folder`; one that a link takes to another place is refused.

    A folder from somebody else could else make its reader open any file here. The folder itself may
    be a link, and in huggingface_hub's cache the files of snapshots/<commit> are links into the
    blobs beside.
    """
    file = folder / name
    try:
        home, real = folder.resolve(), file.resolve()
    # a loop, a null character: opening it says so better
    except (OSError, RuntimeError, ValueError):
        return file
    roots = [
        home,
        *(
            parent.parent / "blobs"
            for parent in (home, *home.parents)
            if parent.name == "snapshots"
        ),
    ]
    if not any(real.is_relative_to(root) for root in roots):
        raise FormatError(
            f"{file} is a link that leaves the folder, to {real}; put a copy of the "
            "file there instead"
        )
    return file


def write_atomically(path: Path, write: Callable[[str], object]) -> None:
    """Call `write` with a temporary name in the same folder, then rename: readers see the old file
    or the new one.
    """
    try:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        )
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
        raise StorageError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}"
        ) from error


def dump_json(document: Mapping[str, Any], what: str) -> str:
    """`document` as text, of a size that `read_json` takes."""
    try:
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{what} cannot be written as JSON: {error}") from None
    if len(text) > MAX_JSON_BYTES:
        raise FormatError(
            f"{what} takes {len(text)} bytes of JSON; at most {MAX_JSON_BYTES} are read back"
        )
    return text


def check_version(document: Mapping[str, Any], file: Path) -> None:
    """Refuse a `document` without format_version, or with a newer major one."""
    version = document.get("format_version")
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", version):
        raise FormatError(
            f"{file}: format_version must be text like {FORMAT_VERSION!r}, got {shown(version)}"
        )
    if int(version.split(".")[0]) > int(FORMAT_VERSION.split(".")[0]):
        raise FormatError(
            f"{file} has format version {version}; this library reads {FORMAT_VERSION}: upgrade "
            "mdm-schedules"
        )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        MissingFileError: no such file.
        StorageError: it cannot be read.
        FormatError: it is not one JSON object, strictly, of at most MAX_JSON_BYTES.
    """
    try:
        check_size(file, MAX_JSON_BYTES)
        text = file.read_text(encoding="utf-8")
    except MDMError:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"there is no file {file}") from None
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text: {error.reason}") from None
    except ValueError as error:  # a path with a null character or a lone surrogate
        raise StorageError(f"cannot read {shown(str(file))}: {error}") from None
    try:
        document = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constants,
            parse_float=_finite,
        )
    except FormatError as error:
        raise FormatError(f"{file}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise FormatError(f"{file} must hold a JSON object, got {type(document).__name__}")
    return document


def check_size(file: Path, limit: int) -> None:
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


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constants(text)  # type: ignore[no-any-return]


class TensorFile:
    """A safetensors file, found and opened when a tensor is asked for by its name; each is read
    once.

    Raises FormatError for anything but float64 vectors in a whole file of bounded size,
    StorageError if unreadable.
    """

    def __init__(self, find: Callable[[], Path]) -> None:
        self.find = find
        self.read: dict[str, tuple[float, ...]] = {}

    def __getitem__(self, key: str) -> tuple[float, ...]:
        if key not in self.read:
            self.read[key] = self._read(key)
        return self.read[key]

    def _read(self, key: str) -> tuple[float, ...]:
        from safetensors import SafetensorError, safe_open

        file = self.find()
        try:
            check_size(file, MAX_TENSOR_BYTES)
            with safe_open(file, framework="pt") as tensors:
                if key not in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                    raise FormatError(f"{file} has no tensor {shown(key)}")
                kind, shape = tensors.get_slice(key).get_dtype(), tensors.get_slice(key).get_shape()
                if kind != "F64" or len(shape) != 1:
                    raise FormatError(
                        f"{file}: tensor {shown(key)} must be float64 [n], got {kind} {shape}"
                    )
                return tuple(tensors.get_tensor(key).tolist())
        except MDMError:
            raise
        except FileNotFoundError:
            raise MissingFileError(f"there is no file {file}, whose tensors are needed") from None
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error}") from error
        except SafetensorError as error:
            raise FormatError(f"{file} is not a whole safetensors file: {error}") from None


@contextmanager
def one_writer(folder: Path) -> Iterator[bool]:
    """Savers into one folder take turns. Yields whether they do: not every system locks folders.

    The lock is the system's, so a process that is killed gives it back.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        locked = False
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
            locked = True
        yield locked
    finally:
        os.close(handle)
