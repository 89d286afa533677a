"""How a schedule is saved, read and published; `Schedule` inherits it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.hub import Evaluation, Record, load, push_record, save_record
from mdm_schedules.plotting import PlottedCurve, draw_curves
from mdm_schedules.schedules.curves import PLOT_TIMES

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from mdm_schedules.schedules.base import Schedule


class StoredSchedule(ABC):
    """Files and repositories of a schedule, by its record."""

    @abstractmethod
    def to_record(self, evaluation: Evaluation | None = None) -> Record:
        """The schedule as data; see `Schedule.to_record`."""

    @staticmethod
    @abstractmethod
    def from_record(record: Record) -> Schedule:
        """The schedule that a record stands for; see `Schedule.from_record`."""

    @property
    @abstractmethod
    def spec(self) -> str:
        """The schedule as text."""

    @abstractmethod
    def curve(self, num_tokens: int, steps: int) -> PlottedCurve:
        """What `mdm_schedules.plotting` draws."""

    def save_pretrained(
        self, path: str | os.PathLike[str], *, evaluation: Evaluation | None = None
    ) -> None:
        """Write schedule.json (for tables, schedule.safetensors too) into the folder `path`.

        The format stands in `mdm_schedules.hub`.

        Args:
            path: the folder, made if missing. A process killed on the way leaves the old schedule
                or the new one.
            evaluation: what the schedule scored; None keeps the record it was read with.
        """
        save_record(self.to_record(evaluation), path)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        task: str | None = None,
        steps: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Schedule:
        """Read a schedule that `save_pretrained` or `push_to_hub` wrote.

        On a subclass, the schedule must be of that subclass.

        Args:
            path: folder, file, or Hub id such as "user/repo" or "user/repo@revision".
            revision: branch, tag or commit; None is "main".
            subfolder: the folder in it that holds the schedule.
            task, steps: where one repository holds several schedules, the one for this task, tuned
                for the number of forward passes nearest to `steps` (by their ratio; ties go to the
                larger).
            cache_dir, token, local_files_only, force_download: as huggingface_hub takes them.

        Raises:
            StorageError: nothing there, or it cannot be had; the message says what to do.
            FormatError: what is there is no schedule.
            InvalidValueError: several schedules fit.
        """
        record = load(
            path,
            revision=revision,
            subfolder=subfolder,
            task=task,
            steps=steps,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        schedule = cls.from_record(record)
        if not isinstance(schedule, cls):
            raise InvalidTypeError(
                f"{path} holds {schedule!r}, which is not a {cls.__name__}; use "
                "Schedule.from_pretrained"
            )
        return schedule

    def push_to_hub(
        self,
        repo_id: str,
        *,
        evaluation: Evaluation | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Publish the schedule on the Hub in one commit, with a model card and an index.

        The card holds a plot and metadata.

        Args:
            repo_id: "user/repo" or "repo", made if missing. A README there that is not ours stays
                as it is, so a model's own repository can carry a schedule.
            evaluation: what the schedule scored; None takes the record it was read with.
            subfolder: None is "<task>-<steps>" with an evaluation, so that one repository holds
                several, else the root.
            revision: branch to push to; None is "main".
            private: of a new repository.
            token: with write permission; None is the one you are logged in with.
            commit_message: one line.
            create_pr: open a pull request instead.

        Returns:
            huggingface_hub's CommitInfo (`.commit_url`, `.oid`, `.pr_url`). The same push again
            changes nothing.

        Raises:
            StorageError: no token, no permission, no connection, ...; the message says what to do.
            InvalidValueError: the folder holds a schedule of another model.
        """
        return push_record(
            self.to_record(evaluation),
            repo_id,
            text=self.spec,
            picture=self._picture,
            subfolder=subfolder,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
            create_pr=create_pr,
        )

    def _picture(self, steps: int) -> bytes:
        """alpha and a plan of `steps` steps as a PNG, for the model card."""
        num_tokens = max(256, steps)
        return draw_curves(PLOT_TIMES, [self.curve(num_tokens, steps)], num_tokens)
