"""Workers that share a study and take each other's trials for abandoned, and a full disk."""

import subprocess
import sys
import textwrap

import optuna
import pytest

import mdm_schedules as mdm
from mdm_schedules.tuning import search

SETTINGS = {"n_trials": 8, "method": "random"}


def score(schedule):
    return -abs(float(schedule.alpha(0.5)) - 0.3)


def give_up(file, number):
    """What another worker does with a trial that nobody seems to work on."""
    study = optuna.load_study(study_name="mdm-schedules", storage=f"sqlite:///{file}")
    study.tell(number, state=optuna.trial.TrialState.FAIL)


def finished(file):
    study = optuna.load_study(study_name="mdm-schedules", storage=f"sqlite:///{file}")
    states = [trial.state.name for trial in study.trials]
    return states.count("COMPLETE"), states.count("FAIL"), states.count("RUNNING")


@pytest.mark.slow
def test_a_trial_given_up_before_it_was_signed_is_left(tmp_path, monkeypatch):
    file, signed = tmp_path / "study.db", []
    sign = search.sign_trial

    def slow(storage, trial_id):
        signed.append(trial_id)
        if len(signed) == 2:
            give_up(file, storage.get_trial(trial_id).number)
        sign(storage, trial_id)

    monkeypatch.setattr(search, "sign_trial", slow)
    mdm.tune(score, storage=file, **SETTINGS)
    assert finished(file) == (8, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_trial_given_up_while_it_is_scored_is_left(jobs, tmp_path):
    file, scored = tmp_path / "study.db", []

    def objective(schedule):
        scored.append(schedule)
        if len(scored) == 4:
            for number in range(20):
                try:
                    give_up(file, number)
                except (KeyError, ValueError, RuntimeError):  # none, or finished
                    continue
        return score(schedule)

    mdm.tune(objective, storage=file, n_jobs=jobs, **SETTINGS)
    done, failed, running = finished(file)
    assert (done, running) == (8, 0)
    assert failed >= 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of file sizes")
def test_after_a_full_disk_the_same_process_goes_on_with_the_study(tmp_path):
    script = """
        import resource, sys
        import mdm_schedules as mdm
        from mdm_schedules.errors import StorageError
        def objective(schedule):
            return -abs(float(schedule.alpha(0.5)) - 0.3)
        for limit in (int(sys.argv[2]), resource.RLIM_INFINITY, resource.RLIM_INFINITY):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                mdm.tune(objective, n_trials=8, method="random", storage=sys.argv[1])
                print("done")
            except StorageError:
                print("full")
    """
    for limit in (3000, 5000):
        words = [str(tmp_path / f"{limit}.journal"), str(limit)]
        told = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), *words],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert told.stdout.split() == ["full", "done", "done"], told.stderr
