"""Files that are whole or absent: atomic writes, bounded JSON, tensors by name, and one path rule.

Readers trust nothing: sizes are bounded, links stay in their folder, JSON is strict, and no pickle
is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import struct
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
_DIGEST = re.compile(r"\.([0-9a-f]{16})\Z")


def local_path(path: str | os.PathLike[str]) -> Path:
    """`path` with ~ expanded; what cannot be a path is refused."""
    if "\0" in str(path):
        raise StorageError(f"cannot use the path {shown(str(path))}: it holds a null character")
    try:
        return Path(path).expanduser()
    except TypeError:
        raise InvalidTypeError(
            f"a path must be text or a pathlib.Path, got {shown(path)}"
        ) from None
    except RuntimeError as error:  # no such user
        raise StorageError(f"cannot use the path {shown(path)}: {error}") from None


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether something is at `path`; what may not be looked at counts: opening it says why."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


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
    # The Hub's cache keeps files as links: snapshots/<commit>/name -> blobs/<hash>, beside each
    # other.
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


def check_output(path: str | os.PathLike[str], *, make: bool = False, plain: bool = False) -> Path:
    """Where a result goes, found out before the work: `path` with ~ expanded and links followed.

    A pipe or a terminal is written to (`write_output`); a plain file is replaced as a whole. With
    `make` the folder may be missing, since it will be made; with `plain` pipes are refused, too.

    Raises:
        StorageError: a folder, a disk or a socket; or nothing can be written there.
    """
    file = local_path(path)
    try:
        try:
            mode: int | None = os.stat(file).st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and stat.S_ISDIR(mode):
            trouble = "it is a folder; name a file in it"
        elif mode is not None and not stat.S_ISREG(mode):
            streams = stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
            trouble = "" if streams and not plain and os.access(file, os.W_OK) else "it is no file"
        else:
            file = file.resolve() if file.is_symlink() else file
            folder = check_output_folder(file.parent) if make else file.parent
            usable = make or (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK))
            trouble = "" if usable else f"{folder} is no folder that can be written to"
    except StorageError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        trouble = str(getattr(error, "strerror", None) or error)
    if trouble:
        raise StorageError(f"cannot write {shown(str(file))}: {trouble}")
    return file


def check_output_folder(path: str | os.PathLike[str]) -> Path:
    """A folder for results, made later if missing, found out before the work; ~ is expanded.

    Raises:
        StorageError: something else is there, or nothing can be written there.
    """
    folder = local_path(path)
    try:
        # The nearest folder that exists decides whether the missing ones can be made.
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        usable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    except (OSError, ValueError):
        usable, existing = False, folder
    if not usable:
        raise StorageError(
            f"cannot write into {shown(str(folder))}: {existing} is no folder to write to"
        )
    return folder


def write_output(path: Path, data: bytes) -> None:
    """Write a whole result to what `check_output` returned."""
    if path.is_file() or not path.exists():
        write_atomically(path, lambda name: Path(name).write_bytes(data))
        return
    try:
        path.write_bytes(data)  # a pipe or a terminal, which nothing may replace
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def write_atomically(path: Path, write: Callable[[str], object]) -> None:
    """Call `write` with a temporary name in the same folder, then rename the file.

    Readers see the old file or the new one. Raises StorageError if what is there is no plain file,
    and leaves it as it is.
    """
    try:
        if path.exists() and not path.is_file():
            raise StorageError(f"cannot write {path}: it is no file, and is not replaced by one")
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        )
        os.close(handle)
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            # mkstemp makes the file private; a result has the rights of any new file. The umask can
            # only be read by setting it.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except StorageError:
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
        text = read_bytes(file, MAX_JSON_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text: {error.reason}") from None
    try:
        # Stricter than Python: a key twice, NaN, and 1e999 are refused, as other readers would do.
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


def read_bytes(file: Path, limit: int) -> bytes:
    """The content of a plain file, from one opening: what is renamed over it meanwhile is not seen.

    Raises:
        MissingFileError: no such file.
        StorageError: it cannot be read, or is a pipe, a device or a folder.
        FormatError: it has more than `limit` bytes.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe or a device may never end
            raise StorageError(f"{file} is not a file")
        with open(file, "rb") as opened:
            # One byte more than is allowed shows that there is too much, however large the file is.
            data = opened.read(limit + 1)
    except FileNotFoundError:
        raise MissingFileError(f"there is no file {file}") from None
    except MDMError:
        raise
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:  # a path with a null character or a lone surrogate
        raise StorageError(f"cannot read {shown(str(file))}: {error}") from None
    if len(data) > limit:
        raise FormatError(f"{file} has more than {limit} bytes")
    return data


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
    """A safetensors file, found and read whole when a tensor is first asked for by its name.

    Attributes:
        data: the bytes, from one reading, so that all tensors are of one file; b"" before it.

    Raises FormatError for anything but float64 vectors in a whole file of bounded size, and for a
    tensor whose name ends in another digest than its own; StorageError if unreadable.
    """

    def __init__(self, find: Callable[[], Path]) -> None:
        self.find = find
        self.data = b""
        self._file = Path()
        self._tensors: dict[str, Mapping[str, Any]] = {}
        # one tuple for a tensor that is named many times: a small file must not fill the memory
        self._read: dict[str, tuple[float, ...]] = {}

    def __getitem__(self, key: str) -> tuple[float, ...]:
        if key not in self._read:
            self._read[key] = self._values(key)
        return self._read[key]

    def _values(self, key: str) -> tuple[float, ...]:
        self._open()
        if key not in self._tensors:
            raise FormatError(f"{self._file} has no tensor {shown(key)}")
        tensor = self._tensors[key]
        kind, shape = tensor["dtype"], list(tensor["shape"])
        if kind != "F64" or len(shape) != 1:
            raise FormatError(
                f"{self._file}: tensor {shown(key)} must be float64 [n], got {kind} {shape}"
            )
        named = _DIGEST.search(key)
        if named and named[1] != digest(tensor["data"]):
            raise FormatError(
                f"{self._file}: tensor {shown(key)} does not hold what its name says; save the "
                "schedule again"
            )
        # safetensors is little-endian on every machine.
        return struct.unpack(f"<{shape[0]}d", tensor["data"])

    @property
    def metadata(self) -> Mapping[str, str]:
        """The text in the header, by name."""
        self._open()
        end = 8 + int.from_bytes(self.data[:8], "little")
        return json.loads(self.data[8:end]).get("__metadata__") or {}  # type: ignore[no-any-return]

    def _open(self) -> None:
        if self.data:
            return
        from safetensors import SafetensorError, deserialize

        self._file = self.find()
        try:
            self.data = read_bytes(self._file, MAX_TENSOR_BYTES)
            self._tensors = dict(deserialize(self.data))
        except MissingFileError:
            raise MissingFileError(
                f"{self._file} is missing, which schedule.json refers to"
            ) from None
        except SafetensorError as error:
            raise FormatError(f"{self._file} is not a whole safetensors file: {error}") from None


def digest(values: bytes | bytearray) -> str:
    """What a tensor's name in schedule.safetensors ends with."""
    return hashlib.sha256(values).hexdigest()[:16]


@contextmanager
def one_writer(folder: Path) -> Iterator[bool]:
    """Savers into one folder take turns.

    Yields whether they do: not every system locks folders. The lock is the system's, so a
    process that is killed gives it back.
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
            # The folder itself is locked, so no lock file is left behind.
            fcntl.flock(handle, fcntl.LOCK_EX)
            locked = True
        yield locked
    finally:
        os.close(handle)
