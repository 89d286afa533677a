"""Which of the schedules in a folder or repository is meant: by subfolder, or by task and steps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mdm_schedules.checks import check_int, did_you_mean, shown
from mdm_schedules.errors import (
    FormatError,
    InvalidValueError,
    MissingFileError,
    SeveralSchedulesError,
    StorageError,
)
from mdm_schedules.files import (
    FORMAT_VERSION,
    check_version,
    dump_json,
    inside,
    is_there,
    read_json,
)
from mdm_schedules.hub.evaluation import Evaluation, check_text, slug
from mdm_schedules.hub.record import SCHEDULE_FILE
from mdm_schedules.plan import MAX_STEPS

INDEX_FILE = "schedules.json"
_FOLDER = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95}){0,3}", re.ASCII)


class Source(Protocol):
    """A folder or repository, by the files in it."""

    @property
    def name(self) -> str:
        """How messages call it."""

    def file(self, name: str) -> Path:
        """A file by its path with '/', ready to be read.

        Raises StorageError, MissingFileError among them.
        """


@dataclass(frozen=True)
class Folder:
    """A local `Source`."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def file(self, name: str) -> Path:
        file = inside(self.path, name)
        if not is_there(file):
            raise MissingFileError(
                f"no schedule at {file}; save one with schedule.save_pretrained(folder)"
            )
        return file


@dataclass(frozen=True)
class Place:
    """One schedule of a repository: its folder ('' is the root), its text, and what it scored."""

    path: str
    schedule: str
    evaluation: Evaluation | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        record = {} if self.evaluation is None else {"evaluation": self.evaluation.to_json()}
        return {"path": self.path, "schedule": self.schedule, **record, **self.extra}


def check_subfolder(subfolder: Any) -> str:
    """`subfolder` if it stays inside whatever holds it; '' is the folder itself."""
    if subfolder == "":
        return ""
    text = check_text("subfolder", subfolder)
    if not _FOLDER.fullmatch(text):
        raise InvalidValueError(
            "subfolder must be up to four names of letters, digits, '-', '_' and '.', such as "
            "'gsm8k-16', "
            f"got {shown(text)}"
        )
    return text


def read_index(source: Source) -> list[Place]:
    """What schedules.json lists.

    Raises MissingFileError if there is none, FormatError if the file is no index.
    """
    file = source.file(INDEX_FILE)
    document = read_json(file)
    check_version(document, file)
    entries = document.get("schedules")
    if not isinstance(entries, list):
        raise FormatError(f"{file}: schedules must be a list, got {shown(entries)}")
    # By folder: two entries for one folder would make the choice depend on their order.
    places: dict[str, Place] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not {"path", "schedule"} <= entry.keys():
            raise FormatError(f"{file}: an entry needs a path and a schedule, got {shown(entry)}")
        try:
            path, text = check_subfolder(entry["path"]), check_text("schedule", entry["schedule"])
            evaluation = (
                Evaluation.from_json(entry["evaluation"]) if "evaluation" in entry else None
            )
        except (TypeError, ValueError) as error:
            raise FormatError(f"{file}: {error}") from None
        if path in places:
            raise FormatError(f"{file} lists the folder {path!r} twice")
        # Fields of a later version of the format are kept, and written back by `to_json`.
        known = ("path", "schedule", "evaluation")
        places[path] = Place(
            path, text, evaluation, {key: entry[key] for key in entry if key not in known}
        )
    return list(places.values())


def index_text(places: Sequence[Place]) -> str:
    """The content of schedules.json."""
    entries = [place.to_json() for place in sorted(places, key=lambda place: place.path)]
    return dump_json({"format_version": FORMAT_VERSION, "schedules": entries}, INDEX_FILE)


def locate(source: Source, subfolder: str | None, task: str | None, steps: int | None) -> str:
    """The folder in `source` of the schedule that is asked for, '' for the root."""
    if subfolder is not None:
        if task is not None or steps is not None:
            raise InvalidValueError("give subfolder, or task and steps, not both")
        return check_subfolder(subfolder)
    if task is not None:
        check_text("task", task)
    if steps is not None:
        steps = check_int("steps", steps, 1, MAX_STEPS, "steps=16")
    # Nothing is asked for: the root's own schedule is meant, or the only one that the index lists.
    if task is None and steps is None:
        try:
            source.file(SCHEDULE_FILE)
            return ""
        except StorageError as error:
            missing = error
        try:
            places = read_index(source)
        except StorageError:
            # Neither a schedule nor an index: the first error names the file that people expect.
            raise missing from None
        # The index lists the root, whose file is gone: that file is what is missing.
        if any(place.path == "" for place in places):
            raise missing
    else:
        try:
            places = read_index(source)
        except MissingFileError:
            places = []
        if not places:
            if task is not None:
                raise StorageError(
                    f"{source.name} has no {INDEX_FILE} that says what its schedules are for; "
                    "leave out task"
                )
            return ""
    return choose(places, task, steps, source.name).path


def choose(places: Sequence[Place], task: str | None, steps: int | None, where: str) -> Place:
    """The place for `task` whose steps are nearest to `steps`.

    The nearest step count differs by the smallest factor; ties go to the larger.
    """
    tasks = {place.evaluation.task for place in places if place.evaluation is not None}
    if task is not None:
        # Compared as slugs, so that "GSM8K" finds what was published as "gsm8k".
        same = slug(task)
        places = [
            place
            for place in places
            if place.evaluation is not None and slug(place.evaluation.task) == same
        ]
        if not places:
            raise InvalidValueError(
                f"{where} has no schedule for the task {task!r}.{did_you_mean(task, tasks)}"
            )
    rated = [(place, place.evaluation.steps) for place in places if place.evaluation is not None]
    # Places without an evaluation name no step count, so they cannot be the nearest.
    if steps is not None and rated:
        best = min(_distance(own, steps) for _, own in rated)
        places = [place for place, own in rated if _distance(own, steps) == best]
    if len(places) == 1:
        return places[0]
    raise _several(where, [(place.path, *_about(place.evaluation)) for place in places])


def _several(
    where: str, choices: Sequence[tuple[str, str | None, int | None]]
) -> SeveralSchedulesError:
    listed = [
        f"subfolder={path!r}" + (f" (task={task!r}, steps={steps})" if task else "")
        for path, task, steps in choices[:8]
    ]
    error = SeveralSchedulesError(
        f"{where} holds {len(choices)} schedules that fit; choose one: "
        f"{', '.join(listed) or 'none'}"
    )
    error.where, error.choices = where, choices
    return error


def _about(evaluation: Evaluation | None) -> tuple[str | None, int | None]:
    return (None, None) if evaluation is None else (evaluation.task, evaluation.steps)


# Ratios, because 8 is as far from 16 as 32 is; rounded, so that such pairs tie in floats too.
def _distance(own: int, steps: int) -> tuple[float, int]:
    return round(abs(math.log(own / steps)), 12), -own
