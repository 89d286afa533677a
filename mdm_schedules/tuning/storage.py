"""Where a study is kept: memory, SQLite, a journal file, or any Optuna storage.

Also deals with what a killed worker left there.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdm_schedules.checks import missing_extra, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, StorageError
from mdm_schedules.files import check_output, is_there, local_path

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

JOURNALS = (".journal", ".log")
DATABASES = (".db", ".sqlite", ".sqlite3")
OPENINGS = 20
_OWNER = "worker"
_SEEN = "seen"  # seconds since the epoch at which the worker last wrote
# seconds after which a trial that nobody has signed belongs to a worker that died in between
UNOWNED = 5.0
SILENT = 3600.0  # seconds after which a worker on another machine is taken for dead


def optuna_module() -> Any:
    """optuna, or the error that names the extra."""
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("optuna", "tune") from error
    return optuna


def open_storage(storage: Any) -> tuple[BaseStorage, bool]:
    """An Optuna storage, and whether it outlives this process.

    Args:
        storage: None for memory; a path that ends in .db or .sqlite for SQLite, in .journal or .log
            for a journal (for many processes, on a shared file system too); a database URL; or an
            Optuna storage.
    """
    optuna = optuna_module()
    if storage is None:
        return optuna.storages.InMemoryStorage(), False
    if isinstance(storage, optuna.storages.BaseStorage):
        return storage, True
    if not isinstance(storage, str | os.PathLike):
        raise InvalidTypeError(
            f"storage must be a path, a URL or an Optuna storage, got {shown(storage)}"
        )
    text = os.fspath(storage)
    try:
        if "://" in text:
            return optuna.storages.RDBStorage(text), True
        path = local_path(text)
        if path.suffix not in (*JOURNALS, *DATABASES):
            raise InvalidValueError(
                f"storage must end in {', '.join((*DATABASES, *JOURNALS))}, or be a URL, got "
                f"{shown(text)}; "
                "for example storage='study.db'"
            )
        check_output(path, make=True, plain=True)
        if is_there(path) and not os.access(path, os.R_OK | os.W_OK):
            raise StorageError(f"cannot open the study in {text}: no permission to read and write")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in DATABASES:
            return _open_sqlite(path), True
        from optuna.storages.journal import JournalFileBackend

        _drop_unfinished_line(path)
        return optuna.storages.JournalStorage(JournalFileBackend(str(path))), True
    except (InvalidValueError, StorageError):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(f"cannot open the study in {text}: {reason}") from error


def _drop_unfinished_line(path: Path) -> None:
    """Drop what a full disk or a power cut left at the end of a journal.

    The next line would be joined to it.
    """
    from optuna.storages.journal import JournalFileSymlinkLock

    def unfinished() -> int:
        data = path.read_bytes() if path.exists() else b""
        # a file that is no journal is left alone
        return (
            len(data.rpartition(b"\n")[2])
            if data.startswith(b'{"op_code"') and b"\n" in data
            else 0
        )

    if not unfinished():
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()  # what looked unfinished may have been a line that another worker was writing
    try:
        os.truncate(path, path.stat().st_size - unfinished())
    finally:
        lock.release()


def _open_sqlite(path: Path) -> BaseStorage:
    """Open an SQLite file that several workers may create at once.

    Workers that find no file make its tables; those that come second try again.
    """
    from sqlalchemy.exc import IntegrityError, OperationalError

    optuna = optuna_module()
    for attempt in range(OPENINGS):
        try:
            waiting = {"connect_args": {"timeout": 60}}  # for other workers' writes
            return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=waiting)  # type: ignore[no-any-return]
        except (OperationalError, IntegrityError) as error:
            if attempt == OPENINGS - 1 or not any(
                word in str(error) for word in ("exists", "UNIQUE", "locked")
            ):
                raise
            time.sleep(0.2)
    raise AssertionError


def check_same(study: Study, settings: dict[str, Any]) -> None:
    """Write down what a new study is about; refuse to go on with one about something else."""
    known = study.user_attrs.get("settings")
    if known is None and study.get_trials(deepcopy=False):
        raise InvalidValueError(
            f"the study {study.study_name!r} in this storage was not made by tune; give another "
            "study_name"
        )
    if known is None:
        study.set_user_attr("settings", settings)
        return
    for name in {**known, **settings}:
        if known.get(name) != settings.get(name):
            raise InvalidValueError(
                f"the study {study.study_name!r} in this storage has {name} "
                f"{shown(known.get(name))}, not "
                f"{shown(settings.get(name))}; go on with the same, or give another study_name or "
                "storage"
            )


# Host, process and its start: a number of a process alone is soon given to another one.
def _signature() -> list[Any]:
    return [socket.gethostname(), os.getpid(), _started(os.getpid())]


def signed_here(trial: FrozenTrial) -> bool:
    """Whether it is this process that works on a trial."""
    return trial.user_attrs.get(_OWNER) == _signature()


def sign_trial(storage: BaseStorage, trial_id: int) -> None:
    """Say which process works on a trial, and that it still does."""
    storage.set_trial_user_attr(trial_id, _OWNER, _signature())
    storage.set_trial_user_attr(trial_id, _SEEN, time.time())


def beat(storage: BaseStorage, trial_id: int) -> None:
    """Say that the worker still works."""
    storage.set_trial_user_attr(trial_id, _SEEN, time.time())


def taken_away(error: BaseException) -> bool:
    """Whether `error` says that another worker gave a trial up that this one works on.

    Optuna raises other classes for it by version and storage.
    """
    told = ("has already finished", "Cannot tell a ")
    return "UpdateFinishedTrialError" in [base.__name__ for base in type(error).__mro__] or (
        isinstance(error, RuntimeError | ValueError) and any(part in str(error) for part in told)
    )


def unsigned(trial: FrozenTrial) -> bool:
    """Whether a running trial may have lost its worker before that worker signed it.

    The worker may also sign it in a moment.
    """
    return _OWNER not in trial.user_attrs and not abandoned(trial)


def abandoned(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial has died."""
    owner = trial.user_attrs.get(_OWNER)
    if owner is None:
        return (
            trial.datetime_start is None or time.time() - trial.datetime_start.timestamp() > UNOWNED
        )
    host, pid, started = owner
    # Of another machine only its last sign of life is known; here the process itself can be asked.
    if host != socket.gethostname():
        return bool(time.time() - trial.user_attrs.get(_SEEN, 0) > SILENT)
    return bool(_started(pid) != started)


def _started(pid: int) -> str:
    """When a process of this machine began, to recognise a reused number; '' if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
            return "" if fields[0] == "Z" else fields[19]  # a zombie works no more
    except (OSError, IndexError):
        pass
    # /proc says it surely; elsewhere signal 0 asks whether the process exists, without ending it.
    if os.path.isdir("/proc/self"):
        return ""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "alive"
    except OSError:
        return ""
    return "alive"
