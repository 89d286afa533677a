"""Schedules as files: schedule.json, and schedule.safetensors for the knots of a table; see
`mdm_schedules.hub`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdm_schedules.errors import FormatError, InvalidTypeError, MDMError, StorageError, shown
from mdm_schedules.hub.evaluation import Evaluation
from mdm_schedules.registry import build
from mdm_schedules.schedules import Schedule

if TYPE_CHECKING:
    import torch

SCHEDULE_FILE = "schedule.json"
TENSOR_FILE = "schedule.safetensors"
FORMAT_VERSION = "1.0"
MAX_JSON_BYTES = 1 << 20
MAX_TENSOR_BYTES = 1 << 26
LONG_TUPLE = 16  # longer parameters go to the tensor file
MAX_DEPTH = 16
ATTEMPTS = 8  # readings of a folder that is saved into meanwhile


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


@contextmanager
def _one_writer(folder: Path) -> Iterator[bool]:
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


def save_schedule(
    schedule: Schedule, path: str | os.PathLike[str], evaluation: Evaluation | None = None
) -> None:
    """Write `schedule` into the folder `path`, made if missing; see `Schedule.save_pretrained`.

    A reader, and whoever comes after a process that was killed on the way, finds the old schedule
    or the new one: tensors are named by their content, and those of the old schedule stay until
    schedule.json is replaced.
    """
    folder = local_path(path)
    tensors: dict[str, tuple[float, ...]] = {}
    text = to_text(schedule, evaluation, tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot make the folder {folder}: {getattr(error, 'strerror', None) or error}"
        ) from error
    with _one_writer(folder) as alone:
        if alone:  # what killed processes left
            for litter in (
                *folder.glob(f".{SCHEDULE_FILE}.*.tmp"),
                *folder.glob(f".{TENSOR_FILE}.*.tmp"),
            ):
                with suppress(OSError):
                    litter.unlink()
        if tensors:
            import torch

            # save_file leaves a temporary file of its own when killed
            from safetensors.torch import save

            new = {
                key: torch.tensor(values, dtype=torch.float64) for key, values in tensors.items()
            }
            old = _tensors_in_use(folder)
            write_atomically(
                folder / TENSOR_FILE, lambda name: Path(name).write_bytes(save({**old, **new}))
            )
        write_atomically(
            folder / SCHEDULE_FILE, lambda name: Path(name).write_text(text, encoding="utf-8")
        )
        if tensors and not old.keys() <= new.keys():
            write_atomically(folder / TENSOR_FILE, lambda name: Path(name).write_bytes(save(new)))


def _tensors_in_use(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that the schedule now in `folder` refers to; {} if it is not whole."""
    from safetensors.torch import load_file

    try:
        found, stack = [], [read_json(inside(folder, SCHEDULE_FILE))["params"]]
        while stack:
            node = stack.pop()
            if isinstance(node, dict):
                found += [node["tensor"]] if isinstance(node.get("tensor"), str) else []
                stack += node.values()
        if not found:
            return {}
        file = inside(folder, TENSOR_FILE)
        _check_size(file, MAX_TENSOR_BYTES)
        tensors = load_file(file)
        return {name: tensors[name] for name in found}
    except Exception:  # whatever is wrong there, it is about to be replaced
        return {}


def to_text(
    schedule: Schedule,
    evaluation: Evaluation | None = None,
    tensors: dict[str, tuple[float, ...]] | None = None,
) -> str:
    """The content of schedule.json; long parameters are put into `tensors`. Raises FormatError for
    what has no file.
    """
    if evaluation is not None and not isinstance(evaluation, Evaluation):
        raise InvalidTypeError(
            f"evaluation must be an mdm_schedules.Evaluation, got {shown(evaluation)}"
        )
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, "time": "generation"}
    document |= _to_json(schedule, "", {} if tensors is None else tensors)
    if evaluation is not None:
        document["evaluation"] = evaluation.to_json()
    return dump_json(document, repr(schedule)[:80])


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


def _to_json(
    schedule: Schedule, prefix: str, tensors: dict[str, tuple[float, ...]]
) -> dict[str, Any]:
    schedule.spec  # noqa: B018 - raises FormatError for what cannot be written
    params: dict[str, Any] = {}
    for key, value in schedule.params.items():
        if isinstance(value, Schedule):
            params[key] = _to_json(value, f"{prefix}{key}.", tensors)
        elif (
            isinstance(value, tuple)
            and len(value) > LONG_TUPLE
            and all(type(x) is float for x in value)
        ):
            name = (
                f"{prefix}{key}.{hashlib.sha256(np.array(value, '<f8').tobytes()).hexdigest()[:16]}"
            )
            tensors[name] = value
            params[key] = {"tensor": name}
        else:
            params[key] = value
    return {"name": schedule.name, "params": params, **extra_fields(schedule)}


def extra_fields(schedule: Schedule) -> dict[str, Any]:
    """The fields of the file a schedule was read from that are not its parameters, `evaluation`
    among them.
    """
    return schedule.__dict__.get("_extra", {})  # type: ignore[no-any-return]


def load_schedule(
    path: str | os.PathLike[str], tensor_file: Callable[[], Path] | None = None
) -> Schedule:
    """Read a schedule from a folder, or from its schedule.json; `tensor_file` finds the tensors if
    they are needed.

    Raises:
        StorageError: nothing there, or unreadable.
        FormatError: not the format of `save_schedule`, or of a newer major version.
    """
    file = local_path(path)
    if os.path.isdir(file):
        file = inside(file, SCHEDULE_FILE)
    document = read_json(file)
    for _ in range(ATTEMPTS):
        try:
            return _from_document(
                document, file, tensor_file or (lambda: inside(file.parent, TENSOR_FILE))
            )
        except MDMError:
            again = read_json(file)
            if again == document:
                raise
            document = again  # saved between our reading of its two files
    raise StorageError(f"{file} is saved again and again while it is read; try later")


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


def _from_document(
    document: dict[str, Any], file: Path, tensor_file: Callable[[], Path]
) -> Schedule:
    check_version(document, file)
    if document.get("time") != "generation":
        raise FormatError(f"{file}: time must be 'generation', got {shown(document.get('time'))}")
    try:
        if "evaluation" in document:
            Evaluation.from_json(document["evaluation"])
        return _from_json(document, TensorFile(tensor_file), 0)
    except StorageError:
        raise
    except MDMError as error:
        raise FormatError(f"{file}: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises StorageError if there is none to read, FormatError for
    anything else.
    """
    try:
        _check_size(file, MAX_JSON_BYTES)
        text = file.read_text(encoding="utf-8")
    except MDMError:
        raise
    except FileNotFoundError:
        raise StorageError(
            f"no schedule at {file}; save one with schedule.save_pretrained(folder)"
        ) from None
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
            _check_size(file, MAX_TENSOR_BYTES)
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
            raise StorageError(f"{file} is missing, which {SCHEDULE_FILE} refers to") from None
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error}") from error
        except SafetensorError as error:
            raise FormatError(f"{file} is not a whole safetensors file: {error}") from None


def _from_json(node: dict[str, Any], tensors: TensorFile, depth: int) -> Schedule:
    name, params = node.get("name"), node.get("params", {})
    if depth > MAX_DEPTH or not isinstance(name, str) or not isinstance(params, dict):
        raise FormatError(
            f"a schedule needs a name (text) and params (an object), at most {MAX_DEPTH} deep"
        )
    values: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, dict) and set(value) == {"tensor"}:
            values[key] = tensors[str(value["tensor"])]
        elif isinstance(value, dict):
            values[key] = _from_json(value, tensors, depth + 1)
        else:
            values[key] = _as_tuples(value)
    schedule = build(name, [], values)
    extra = {
        key: value
        for key, value in node.items()
        if key not in ("format_version", "time", "name", "params")
    }
    if extra:
        # no parameter: the schedule stays equal to one without
        object.__setattr__(schedule, "_extra", extra)
    return schedule


def _as_tuples(value: Any) -> Any:
    """JSON has no tuples; every list in a file was one."""
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
