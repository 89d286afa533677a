"""Every error the library raises on purpose.

All derive from `MDMError`; each also derives from the builtin that a caller would expect to catch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class MDMError(Exception):
    """Base class of all errors raised by mdm_schedules."""


class InvalidValueError(MDMError, ValueError):
    """A value of the right type that lies outside what is allowed."""


class InvalidTypeError(MDMError, TypeError):
    """An argument of a type that the call cannot use."""


class UnknownNameError(MDMError, KeyError):
    """A name (of a schedule, policy, adapter, preset, ...) that nothing provides."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class PluginError(MDMError):
    """A third-party package registered something that clashes or cannot be loaded."""


class FormatError(MDMError, ValueError):
    """A file or repository whose content is not what its format says."""


class StorageError(MDMError, OSError):
    """A file or repository that cannot be found, read or written.

    Attributes:
        finished: of a study of tuning, the trials that had finished.
    """

    finished: Sequence[Any] = ()


class MissingFileError(StorageError):
    """The folder or repository can be reached, and has no such file."""


class SeveralSchedulesError(InvalidValueError):
    """Several schedules of one folder or repository fit what was asked for.

    Attributes:
        where: the folder or repository.
        choices: for each schedule its subfolder, task and steps; task and steps are None where no
            evaluation names them.
    """

    where: str = ""
    choices: Sequence[tuple[str, str | None, int | None]] = ()


class ObjectiveError(MDMError):
    """An objective of tuning failed, or its answer is no score.

    The trials that had finished are kept.

    Attributes:
        finished: those trials (`mdm_schedules.tuning.Trial`).
    """

    finished: Sequence[Any] = ()


class DistributedError(MDMError, RuntimeError):
    """A process of a distributed job failed, fell silent, or got other arguments than the rest."""


class MissingExtraError(MDMError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
