"""Kills a `tune` study at random moments (SIGKILL), resumes it each time, and counts losses.

    python examples/benchmarks/killed_studies.py --kills 20

Each worker resumes the study from the same file and works until it is killed. After each kill,
every trial known to have finished must still be there with its value. At the end the study must
equal an undisturbed one.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mdm_schedules as mdm
from mdm_schedules.tuning.storage import open_storage

TRIALS = 60


def objective(schedule, instances):
    """Score cheaply and deterministically, yet slowly enough to be killed meanwhile."""
    time.sleep(0.004)
    return [-abs(schedule.alpha(0.3) - 0.1) - 0.01 * index for index in instances]


objective.num_instances, objective.batch_size, objective.name = 20, 4, "killed studies"


def work(storage):
    return mdm.tune(objective, n_trials=TRIALS, storage=storage)


def finished(storage):
    """Return number -> (state, values) for the finished trials."""
    import optuna

    try:
        study = optuna.load_study(study_name="mdm-schedules", storage=open_storage(storage)[0])
    except KeyError:  # killed before the study existed
        return {}
    return {
        trial.number: (trial.state.name, trial.values)
        for trial in study.get_trials()
        if trial.state.name in ("COMPLETE", "PRUNED")
    }


def disturb(storage, rng, kills):
    """Start and kill workers until enough were killed or the study is done.

    Returns the numbers of kills, of finished trials and of lost trials.
    """
    known, killed, lost, between = {}, 0, 0, 0
    while killed < kills:
        size = Path(storage).stat().st_size if Path(storage).exists() else 0
        process = subprocess.Popen(
            [sys.executable, __file__, "--work", storage], stderr=subprocess.DEVNULL
        )
        while process.poll() is None and (
            not Path(storage).exists() or Path(storage).stat().st_size == size
        ):
            time.sleep(0.002)  # until the worker has opened the study
        time.sleep(rng.uniform(0, 1.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        now = finished(storage)
        lost += sum(now.get(number) != values for number, values in known.items())
        between += len(now) - len(known)
        known = now
    return killed, between, lost


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", choices=["study.db", "study.journal"], default="study.journal")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work)
        return
    rng, totals = random.Random(args.seed), [0, 0, 0]
    undisturbed, equal, studies = work(None), 0, 0
    while totals[0] < args.kills:
        with tempfile.TemporaryDirectory() as folder:
            storage = str(Path(folder, args.storage))
            counts = disturb(storage, rng, args.kills - totals[0])
            resumed = work(storage)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        same = {trial.schedule for trial in resumed.trials} == {
            trial.schedule for trial in undisturbed.trials
        }
        equal += same and resumed.best_schedule == undisturbed.best_schedule
        studies += 1
    print("{} workers killed, {} trials finished in between, {} of them lost".format(*totals))
    print(f"{equal} of {studies} resumed studies equal one that nobody disturbed")


if __name__ == "__main__":
    main()
