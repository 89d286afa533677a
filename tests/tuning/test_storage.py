"""Stored studies: resumed, shared, killed, and opened with different settings."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from rights import folder_of_ordinary_user, ordinary_user

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidValueError, StorageError
from mdm_schedules.tuning import storage as storage_module

pytestmark = pytest.mark.slow

optuna = pytest.importorskip("optuna")

WORKER = """
    import sys, time
    import mdm_schedules as mdm

    def objective(schedule, instances):
        time.sleep(float(sys.argv[3]))
        with open(sys.argv[2], "a") as file:
            print(schedule.spec, *instances, file=file, flush=True)
        return [schedule.alpha(0.5) - 0.01 * index for index in instances]

    objective.num_instances, objective.batch_size, objective.name = 12, 2, "made up"
    found = mdm.tune(objective, n_trials=int(sys.argv[4]), storage=sys.argv[1], race=False)
    print(found.best_schedule)
"""


def started(tmp_path, storage, seconds=0.0, n_trials=12):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    words = [
        sys.executable,
        str(script),
        str(tmp_path / storage),
        str(tmp_path / "asked.txt"),
        str(seconds),
        str(n_trials),
    ]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


def trials(path):
    kept, _ = storage_module.open_storage(path)
    return optuna.load_study(study_name="mdm-schedules", storage=kept).get_trials()


def closeness(schedule):
    return -abs(schedule.alpha(0.3) - 0.2)


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_a_study_goes_on_where_it_was(name, tmp_path):
    asked = []

    def objective(schedule):
        if len(asked) == 9:
            raise KeyboardInterrupt
        asked.append(schedule)
        return closeness(schedule)

    with pytest.raises(KeyboardInterrupt):
        mdm.tune(objective, n_trials=20, storage=tmp_path / name)
    before, asked_before = trials(tmp_path / name), list(asked)
    asked.clear()
    asked.extend([None] * 10)
    found = mdm.tune(objective, n_trials=20, storage=tmp_path / name)
    assert not set(asked_before) & set(asked[10:])  # nothing is asked again
    whole = mdm.tune(closeness, n_trials=20)
    assert found.best_schedule == whole.best_schedule
    assert {trial.schedule for trial in found.trials} == {trial.schedule for trial in whole.trials}
    after = trials(tmp_path / name)
    assert [trial.values for trial in after[: len(before) - 1]] == [
        trial.values for trial in before[:-1]
    ]
    asked.clear()
    assert (
        mdm.tune(objective, n_trials=20, storage=tmp_path / name).best_schedule
        == found.best_schedule
    )
    assert not asked


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_killed_workers_lose_no_finished_trial(name, tmp_path):
    """Workers get kill -9 at random moments.

    examples/benchmarks/killed_studies.py does it 20 times and more.
    """
    rng, killed = random.Random(1), 0
    known: dict[int, float] = {}
    for _ in range(3):
        process = started(tmp_path, name, seconds=0.02)
        asked = tmp_path / "asked.txt"
        before = asked.stat().st_size if asked.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if asked.exists() and asked.stat().st_size > before + rng.randrange(20, 400):
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.005)
        process.communicate()
        there = {
            t.number: t.value
            for t in trials(tmp_path / name)
            if t.state == optuna.trial.TrialState.COMPLETE
        }
        assert known.items() <= there.items()
        known = there
    assert killed >= 2
    best = finished(started(tmp_path, name))
    rows = (tmp_path / "asked.txt").read_text().splitlines()
    assert len(rows) - len(set(rows)) <= killed  # at most the batch that each kill interrupted
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert finished(started(fresh, name)) == best
    states = [trial.state for trial in trials(tmp_path / name)]
    assert states.count(optuna.trial.TrialState.COMPLETE) == 12
    assert optuna.trial.TrialState.RUNNING not in states


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_processes_share_the_trials_of_one_study(name, tmp_path):
    first = started(tmp_path, name, seconds=0.05)
    second = started(tmp_path, name, seconds=0.05)
    assert finished(first) == finished(second)
    done = [
        trial
        for trial in trials(tmp_path / name)
        if trial.state == optuna.trial.TrialState.COMPLETE
    ]
    assert 12 <= len(done) <= 13  # both may take the last one
    pids = {trial.user_attrs["worker"][1] for trial in done}
    assert len(pids) == 2


def test_a_study_about_something_else_is_refused(tmp_path):
    kept = tmp_path / "study.db"
    mdm.tune(closeness, n_trials=4, storage=kept)
    for options, words in (
        ({"bounds": (0.1, 2.0)}, r"has bounds \[0.05, 5.0\], not \[0.1, 2.0\]"),
        ({"direction": "minimize"}, "direction"),
        ({"seed": 1}, "has seed 0, not 1"),
        ({"held_out": 0.1}, "has held_out"),
    ):
        with pytest.raises(InvalidValueError, match=words):
            mdm.tune(closeness, n_trials=8, storage=kept, **options)
    with pytest.raises(InvalidValueError, match="has objective"):
        mdm.tune(lambda schedule: 1.0, n_trials=8, storage=kept)
    assert len(trials(kept)) == 4
    assert (
        mdm.tune(lambda schedule: 1.0, n_trials=2, storage=kept, study_name="another").best_schedule
        == mdm.Linear()
    )


def test_a_study_of_one_objective_is_not_one_of_several_nor_somebody_elses(tmp_path):
    def objective(schedule, steps):
        return closeness(schedule)

    kept = tmp_path / "study.db"
    mdm.tune(objective, n_trials=3, storage=kept, steps=[2, 4])
    with pytest.raises(InvalidValueError, match="has multi_objective False, not True"):
        mdm.tune(objective, n_trials=6, storage=kept, steps=[2, 4], multi_objective=True)
    other = optuna.create_study(storage=f"sqlite:///{kept}", study_name="theirs")
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(InvalidValueError, match="'theirs' in this storage was not made by tune"):
        mdm.tune(closeness, n_trials=3, storage=kept, study_name="theirs")


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_a_storage_that_vanishes_keeps_what_had_finished(name, tmp_path):
    asked = []

    def objective(schedule):
        asked.append(schedule)
        if len(asked) == 6:
            for file in tmp_path.iterdir():
                file.unlink()
        return closeness(schedule)

    with pytest.raises(StorageError, match="can no longer be used") as caught:
        mdm.tune(objective, n_trials=10, storage=tmp_path / name)
    assert [trial.schedule for trial in caught.value.finished] == asked


def test_a_file_that_is_no_study(tmp_path):
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="cannot open the study"):
        mdm.tune(closeness, n_trials=2, storage=tmp_path / "study.db")
    (tmp_path / "study.journal").write_text("{no journal\n")
    with pytest.raises(StorageError, match="study"):
        mdm.tune(closeness, n_trials=2, storage=tmp_path / "study.journal")
    with pytest.raises(StorageError):
        mdm.tune(closeness, n_trials=2, storage="/proc/nowhere/study.db")


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_a_study_that_may_not_be_written_is_refused_before_the_first_trial(name):
    def unasked(schedule):
        raise AssertionError("a trial was begun")

    with folder_of_ordinary_user() as folder:
        first, second = folder / "file", folder / "folder"
        for place in (first, second):
            mdm.tune(closeness, n_trials=2, storage=place / name, seed=0)
            for path in (place, *place.iterdir()):
                path.chmod(0o777 if path.is_dir() else 0o666)
        whole = {place: (place / name).read_bytes() for place in (first, second)}
        (first / name).chmod(0o444)
        second.chmod(0o555)
        (folder / "new").mkdir(0o555)
        with ordinary_user():
            for place, said in (
                (first, rf"cannot open the study in .*{name}: no permission to read and write"),
                (second, "is no folder to write to"),
                (folder / "new", "is no folder to write to"),
                (folder / "new" / "below", "is no folder to write to"),
            ):
                with pytest.raises(StorageError, match=said):
                    mdm.tune(unasked, n_trials=4, storage=place / name, seed=0)
        assert whole == {place: (place / name).read_bytes() for place in (first, second)}
        second.chmod(0o777)
        found = mdm.tune(closeness, n_trials=4, storage=second / name, seed=0)
        assert found.best_schedule == mdm.tune(closeness, n_trials=4, seed=0).best_schedule


@pytest.mark.parametrize("cut", [1, 40])
def test_a_journal_that_ends_in_the_middle_of_a_line(tmp_path, cut):
    path = tmp_path / "study.journal"
    mdm.tune(closeness, n_trials=3, storage=path, seed=0)
    path.write_bytes(path.read_bytes()[:-cut])
    whole = path.read_bytes().rpartition(b"\n")[0]
    found = mdm.tune(closeness, n_trials=5, storage=path, seed=0)
    assert path.read_bytes().startswith(whole)
    assert found.best_schedule == mdm.tune(closeness, n_trials=5, seed=0).best_schedule
    (tmp_path / "notes.log").write_text("of something else\nwithout an end")
    with pytest.raises(StorageError):
        mdm.tune(closeness, n_trials=2, storage=tmp_path / "notes.log")
    assert (tmp_path / "notes.log").read_text() == "of something else\nwithout an end"


def test_whose_worker_is_alive(tmp_path):
    kept, lasting = storage_module.open_storage(tmp_path / "study.db")
    assert lasting
    study = optuna.create_study(storage=kept)
    trial = study.ask()
    storage_module.sign_trial(kept, trial._trial_id)
    frozen = study.get_trials()[0]
    assert not storage_module.abandoned(frozen)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    host, pid, begun = frozen.user_attrs["worker"]
    assert pid == os.getpid()
    for owner, dead in (
        ([host, child.pid, "123"], True),
        ([host, pid, "another start"], True),
        ([host, pid, begun], False),
    ):
        kept.set_trial_user_attr(trial._trial_id, "worker", owner)
        assert storage_module.abandoned(study.get_trials()[0]) is dead
    kept.set_trial_user_attr(trial._trial_id, "worker", ["another machine", 1, ""])
    assert not storage_module.abandoned(study.get_trials()[0])
    kept.set_trial_user_attr(trial._trial_id, "seen", time.time() - 2 * storage_module.SILENT)
    assert storage_module.abandoned(study.get_trials()[0])
