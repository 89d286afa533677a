"""Who works on a trial of a stored study, and who has died; how a storage is opened."""

import datetime
import os
import subprocess
import sys
import time

import pytest
from rights import folder_of_ordinary_user, ordinary_user

from mdm_schedules.errors import InvalidValueError, MissingExtraError, StorageError
from mdm_schedules.tuning import storage

optuna = pytest.importorskip("optuna")

from optuna.trial import TrialState, create_trial  # noqa: E402

NOW = 2e9  # in seconds since the epoch


@pytest.fixture
def now(monkeypatch):
    """Stop the clock."""
    monkeypatch.setattr(storage.time, "time", lambda: NOW)


def running(began: float | None = 0.0, **attributes):
    """Return a running trial that began so many seconds before now."""
    trial = create_trial(state=TrialState.WAITING, user_attrs=attributes)
    trial.state = TrialState.RUNNING
    trial.datetime_start = None if began is None else datetime.datetime.fromtimestamp(NOW - began)
    return trial


@pytest.fixture
def signed():
    """A study's trial that this process has signed."""
    study = optuna.create_study()
    number = study.ask()._trial_id
    storage.sign_trial(study._storage, number)
    return study.get_trials()[0]


def test_a_trial_is_this_processs_own_by_host_number_and_start(signed):
    host, pid, began = signed.user_attrs["worker"]
    assert pid == os.getpid()
    assert storage.signed_here(signed)
    for other in (["a", pid, began], ["z" * 99, pid, began], [host, pid + 1, began]):
        assert not storage.signed_here(running(worker=other))
    assert not storage.signed_here(running(worker=[host, pid, began + "0"]))
    assert not storage.signed_here(running())


@pytest.mark.parametrize(
    ("began", "dead"), [(None, True), (0.0, False), (4.5, False), (5.5, True), (1e6, True)]
)
@pytest.mark.usefixtures("now")
def test_a_trial_that_nobody_signed_is_given_up_after_five_seconds(began, dead):
    trial = running(began)
    assert storage.abandoned(trial) is dead
    assert storage.unsigned(trial) is not dead
    assert not storage.unsigned(running(began, worker=["somewhere", 1, ""]))


@pytest.mark.parametrize(
    ("silent", "dead"), [(0, False), (3599.5, False), (3600.5, True), (1e6, True)]
)
@pytest.mark.usefixtures("now")
def test_a_worker_elsewhere_is_given_up_after_an_hour_of_silence(silent, dead):
    trial = running(worker=["somewhere else", 1, ""], seen=NOW - silent)
    assert storage.abandoned(trial) is dead


def test_a_worker_elsewhere_that_never_showed_itself_is_given_up():
    assert storage.abandoned(running(worker=["somewhere else", 1, ""]))


def test_beats_put_off_the_hour():
    study = optuna.create_study()
    number = study.ask()._trial_id
    study._storage.set_trial_user_attr(number, "worker", ["somewhere else", 1, ""])
    study._storage.set_trial_user_attr(number, "seen", time.time() - 4000)
    assert storage.abandoned(study.get_trials()[0])
    storage.beat(study._storage, number)
    assert not storage.abandoned(study.get_trials()[0])


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="asks /proc")
def test_a_process_that_ended_works_no_more_even_before_its_parent_has_asked(signed):
    host = signed.user_attrs["worker"][0]
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker = [host, child.pid, storage._started(child.pid)]
    assert not storage.abandoned(running(worker=worker))
    child.kill()
    deadline = time.monotonic() + 30
    while not storage.abandoned(running(worker=worker)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert storage.abandoned(running(worker=worker))  # a zombie
    child.communicate()
    assert storage.abandoned(running(worker=worker))  # no process at all


def test_what_says_that_another_worker_gave_a_trial_up():
    class UpdateFinishedTrialError(Exception):
        pass

    for error in (
        UpdateFinishedTrialError(),
        ValueError("Cannot tell a FAIL trial."),
        RuntimeError("Trial#3 has already finished and can not be updated."),
    ):
        assert storage.taken_away(error)
    for error in (KeyError("Cannot tell a FAIL trial."), ValueError("x"), RuntimeError("")):
        assert not storage.taken_away(error)


def test_only_memory_ends_with_the_process(tmp_path):
    memory, lasts = storage.open_storage(None)
    assert not lasts
    assert storage.open_storage(memory) == (memory, True)
    assert storage.open_storage(f"sqlite:///{tmp_path}/a.db")[1]
    for name in ("b.db", "c.sqlite", "d.sqlite3", "e.journal", "f.log"):
        kept, lasts = storage.open_storage(tmp_path / name)
        kind = "RDBStorage" if name[0] in "bcd" else "JournalStorage"
        assert (type(kept).__name__, lasts) == (kind, True)
    for name in ("study", "study.txt", "study.db.txt"):
        with pytest.raises(InvalidValueError, match="storage must end in"):
            storage.open_storage(tmp_path / name)


def test_folders_of_a_study_are_made(tmp_path):
    storage.open_storage(tmp_path / "new" / "below" / "study.db")
    assert (tmp_path / "new" / "below" / "study.db").is_file()


@pytest.mark.parametrize("mode", [0o444, 0o222, 0])
def test_a_study_is_read_and_written(mode):
    with folder_of_ordinary_user() as folder:
        storage.open_storage(folder / "study.db")
        storage.open_storage(folder / "study.db")
        (folder / "study.db").chmod(mode)
        with ordinary_user(), pytest.raises(StorageError, match="no permission to read and write"):
            storage.open_storage(folder / "study.db")


@pytest.mark.parametrize("cut", range(1, 20))
def test_what_no_worker_finished_at_the_end_of_a_journal_is_dropped(tmp_path, cut):
    path, line = tmp_path / "study.journal", b'{"op_code": 0, "worker_id": "a"}'
    path.write_bytes(line + b"\n" + line[:cut])
    storage._drop_unfinished_line(path)
    assert path.read_bytes() == line + b"\n"
    for other in (line[:cut], b"notes\nwithout an end", line + b"\n" + line + b"\n"):
        path.write_bytes(other)  # no journal, or a whole one
        storage._drop_unfinished_line(path)
        assert path.read_bytes() == other


def test_what_is_missing_is_said_with_the_extra_that_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"mdm-schedules\[tune\]"):
        storage.open_storage(None)


def broken(monkeypatch, errors):
    """Let SQLite raise these, one at each opening, and return what it is asked."""
    asked = []

    def open_database(url, **options):
        asked.append(options)
        if len(asked) <= len(errors):
            raise errors[len(asked) - 1]
        return "open"

    monkeypatch.setattr(optuna.storages, "RDBStorage", open_database)
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    return asked


@pytest.mark.parametrize("reason", ["table x already exists", "UNIQUE constraint", "is locked"])
def test_workers_that_make_one_database_at_once_try_again(monkeypatch, tmp_path, reason):
    from sqlalchemy.exc import OperationalError

    error = OperationalError("create", {}, Exception(reason))
    asked = broken(monkeypatch, [error] * 19)
    assert storage.open_storage(tmp_path / "study.db") == ("open", True)
    assert len(asked) == 20
    assert asked[0]["engine_kwargs"] == {"connect_args": {"timeout": 60}}
    asked = broken(monkeypatch, [error] * 30)
    with pytest.raises(StorageError, match=reason):
        storage.open_storage(tmp_path / "study.db")
    assert len(asked) == 20


def test_a_database_that_cannot_be_opened_is_tried_once(monkeypatch, tmp_path):
    from sqlalchemy.exc import OperationalError

    asked = broken(monkeypatch, [OperationalError("open", {}, Exception("disk I/O error"))])
    with pytest.raises(StorageError, match="disk I/O error"):
        storage.open_storage(tmp_path / "study.db")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("error", "said"), [(RuntimeError("first\nsecond"), "first"), (KeyError(), "KeyError")]
)
def test_a_storage_that_fails_says_why_in_one_line(monkeypatch, error, said):
    broken(monkeypatch, [error])
    with pytest.raises(StorageError) as caught:
        storage.open_storage("postgresql://nowhere/x")
    assert str(caught.value) == f"cannot open the study in postgresql://nowhere/x: {said}"


def test_a_study_remembers_what_it_is_about():
    study = optuna.create_study(study_name="mine")
    storage.check_same(study, {"seed": 0, "steps": 4})
    storage.check_same(study, {"seed": 0, "steps": 4})
    for other, said in (
        ({"seed": 0, "steps": 8}, "has steps 4, not 8"),
        ({"seed": 0}, "has steps 4, not None"),
        ({"seed": 0, "steps": 4, "order": "x"}, "has order None, not 'x'"),
    ):
        with pytest.raises(InvalidValueError, match=said):
            storage.check_same(study, other)
    theirs = optuna.create_study(study_name="theirs")
    theirs.ask()
    with pytest.raises(InvalidValueError, match="'theirs' in this storage was not made by tune"):
        storage.check_same(theirs, {"seed": 0})
