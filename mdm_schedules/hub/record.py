"""A schedule as data, and its two files: schedule.json, and schedule.safetensors for long tables.

The format stands in `mdm_schedules.hub`. A record knows no Schedule: `Schedule.to_record` makes it
and `Schedule.from_record` reads it back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdm_schedules.checks import shown
from mdm_schedules.errors import (
    FormatError,
    InvalidTypeError,
    MDMError,
    MissingFileError,
    StorageError,
)
from mdm_schedules.files import (
    FORMAT_VERSION,
    TensorFile,
    check_version,
    digest,
    dump_json,
    inside,
    local_path,
    one_writer,
    read_json,
    write_atomically,
)
from mdm_schedules.hub.evaluation import Evaluation

if TYPE_CHECKING:
    import torch

SCHEDULE_FILE = "schedule.json"
TENSOR_FILE = "schedule.safetensors"
LONG_TUPLE = 16  # longer parameters go to the tensor file
MAX_DEPTH = 16
ATTEMPTS = 32  # readings of a folder that is saved into meanwhile
_KNOWN = ("format_version", "time", "name", "params", "evaluation")


@dataclass(frozen=True)
class Record:
    """A schedule as it is stored.

    Attributes:
        name: the registered name.
        params: by name; numbers, text, None, tuples of these, or further records.
        evaluation: what it scored, if that is known.
        extra: fields that a later version of the format added; kept and written back.
        source: the file it was read from, for messages; "" for one that was not read.
    """

    name: str
    params: Mapping[str, Any]
    evaluation: Evaluation | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def to_text(self, tensors: dict[str, tuple[float, ...]] | None = None) -> str:
        """The content of schedule.json; long parameters are put into `tensors`.

        Raises:
            InvalidTypeError: `evaluation` is none.
            FormatError: it has no such text, or one that is too long to be read back.
        """
        if self.evaluation is not None and not isinstance(self.evaluation, Evaluation):
            raise InvalidTypeError(
                f"evaluation must be an mdm_schedules.Evaluation, got {shown(self.evaluation)}"
            )
        document = {"format_version": FORMAT_VERSION, "time": "generation"}
        document |= self._to_json("", {} if tensors is None else tensors)
        return dump_json(document, f"the schedule {self.name!r}")

    def _to_json(self, prefix: str, tensors: dict[str, tuple[float, ...]]) -> dict[str, Any]:
        params: dict[str, Any] = {}
        for key, value in self.params.items():
            if isinstance(value, Record):
                params[key] = value._to_json(f"{prefix}{key}.", tensors)
            elif (
                isinstance(value, tuple)
                and len(value) > LONG_TUPLE
                and all(type(x) is float for x in value)
            ):
                # The digest in the name ties the two files together: a table of another save has
                # another name, so a reader between two writes finds a missing tensor and not a
                # wrong one.
                name = f"{prefix}{key}.{digest(np.array(value, '<f8').tobytes())}"
                tensors[name] = value
                params[key] = {"tensor": name}
            else:
                params[key] = value
        about = {} if self.evaluation is None else {"evaluation": self.evaluation.to_json()}
        return {"name": self.name, "params": params, **self.extra, **about}


def save_record(record: Record, path: str | os.PathLike[str]) -> None:
    """Write `record` into the folder `path`, made if missing.

    A reader, and whoever comes after a process that was killed on the way, finds the old schedule
    or the new one: tensors are named by their content, and those of the old schedule stay until
    schedule.json is replaced.
    """
    folder = local_path(path)
    tensors: dict[str, tuple[float, ...]] = {}
    text = record.to_text(tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot make the folder {folder}: {getattr(error, 'strerror', None) or error}"
        ) from error
    with one_writer(folder) as alone:
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
            # Three writes, so that a reader finds a whole schedule at any moment: both tables, then
            # the record that refers to the new one, then the new table alone.
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
    import torch

    try:
        found, stack = [], [read_json(inside(folder, SCHEDULE_FILE))["params"]]
        while stack:
            node = stack.pop()
            if isinstance(node, dict):
                found += [node["tensor"]] if isinstance(node.get("tensor"), str) else []
                stack += node.values()
        if not found:
            return {}
        tensors = TensorFile(lambda: inside(folder, TENSOR_FILE))
        return {name: torch.tensor(tensors[name], dtype=torch.float64) for name in found}
    except Exception:  # whatever is wrong there, it is about to be replaced
        return {}


def load_record(
    path: str | os.PathLike[str], tensor_file: Callable[[], Path] | None = None
) -> Record:
    """Read a record from a folder, or from its schedule.json.

    Args:
        path: the folder or file.
        tensor_file: finds the tensors if they are needed; by default beside the file.

    Raises:
        StorageError: nothing there, or unreadable.
        FormatError: not the format of `save_record`, or of a newer major version.
    """
    file = local_path(path)
    if os.path.isdir(file):
        file = inside(file, SCHEDULE_FILE)
    before: tuple[dict[str, Any], bytes] | None = None
    for _ in range(ATTEMPTS):
        document = _read(file)
        tensors = TensorFile(tensor_file or (lambda: inside(file.parent, TENSOR_FILE)))
        try:
            return _from_document(document, file, tensors)
        except MDMError:  # perhaps it was saved between our reading of its two files
            # The same files twice in a row: nobody is writing, and the fault is in them.
            if (document, tensors.data) == before:
                raise
            before = document, tensors.data
    raise StorageError(f"{file} is saved again and again while it is read; try later")


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except MissingFileError:
        raise MissingFileError(
            f"no schedule at {file}; save one with schedule.save_pretrained(folder)"
        ) from None


def _from_document(document: dict[str, Any], file: Path, tensors: TensorFile) -> Record:
    check_version(document, file)
    if document.get("time") != "generation":
        raise FormatError(f"{file}: time must be 'generation', got {shown(document.get('time'))}")
    try:
        return _from_json(document, tensors, str(file), 0)
    except StorageError:
        raise
    except MDMError as error:
        raise FormatError(f"{file}: {error}") from error


def _from_json(node: dict[str, Any], tensors: TensorFile, source: str, depth: int) -> Record:
    name, params = node.get("name"), node.get("params", {})
    # A schedule may hold another (EnergyOptimal its gamma); a file may not hold so many that
    # reading it exhausts the stack.
    if depth > MAX_DEPTH or not isinstance(name, str) or not isinstance(params, dict):
        raise FormatError(
            f"a schedule needs a name (text) and params (an object), at most {MAX_DEPTH} deep"
        )
    values: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, dict) and set(value) == {"tensor"}:
            values[key] = tensors[str(value["tensor"])]
        elif isinstance(value, dict):
            values[key] = _from_json(value, tensors, source, depth + 1)
        else:
            values[key] = _as_tuples(value)
    evaluation = Evaluation.from_json(node["evaluation"]) if "evaluation" in node else None
    extra = {key: value for key, value in node.items() if key not in _KNOWN}
    return Record(name, values, evaluation, extra, source)


def _as_tuples(value: Any) -> Any:
    """JSON has no tuples; every list in a file was one."""
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
