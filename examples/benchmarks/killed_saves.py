"""Kills a process at random moments while it saves schedules, and checks the folder it leaves.

    python examples/benchmarks/killed_saves.py --kills 200

The folder must hold either the old schedule or the new one.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import tempfile
import time
from pathlib import Path

import numpy as np

import mdm_schedules as mdm
from mdm_schedules import Schedule


def numbered(k: int) -> Schedule:
    """Return the k-th schedule to save.

    Small and large tables share their names; some schedules are nested, and some have no table.
    """
    if k % 4 == 0:
        return mdm.Beta(1.0, 1.0 + k)
    knots = np.linspace(0, 1, 2000 if k % 4 == 1 else 40) ** (1 + k / 1000)
    table = mdm.Tabulated(knots.tolist())
    return mdm.EnergyOptimal(table) if k % 4 == 3 else table


def save_for_ever(folder: Path, first: int, report: int) -> None:
    k = first
    while True:
        numbered(k).save_pretrained(folder)
        os.write(report, b".")
        k += 1


def kill_once(folder: Path, first: int, seconds: float) -> tuple[int, bool]:
    """Save schedules number `first`, `first` + 1, ... until killed.

    Returns how many saves were finished, and whether one was under way.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            save_for_ever(folder, first, write)
        finally:
            os._exit(1)
    os.close(write)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended by itself"
    with os.fdopen(read, "rb") as pipe:
        done = len(pipe.read())
    return done, any(file.name.endswith(".tmp") for file in folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    source = random.Random(args.seed)
    k, saves, caught, outcomes = 1, 0, 0, {"old": 0, "new": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbered(0).save_pretrained(folder)
        for _ in range(args.kills):
            done, under_way = kill_once(folder, k, source.uniform(0.002, 0.06))
            found = Schedule.from_pretrained(folder)
            last = k + done - 1
            if found == numbered(last):
                outcomes["old"] += 1
            else:
                assert found == numbered(last + 1), (
                    f"after save {last} of the process, the folder holds {found!r:.80}"
                )
                outcomes["new"] += 1
            k, saves, caught = last + 2, saves + done, caught + under_way
            numbered(k - 1).save_pretrained(folder)
        left = sorted(file.name for file in folder.iterdir())
        assert left == ["schedule.json", "schedule.safetensors"], left
    print(f"{platform.platform()}, Python {platform.python_version()}")
    print(
        f"{args.kills} processes killed, {saves} whole saves, {caught} kills while a temporary "
        "file was there"
    )
    print(
        f"then the folder held the last whole save {outcomes['old']} times, the one under way "
        f"{outcomes['new']} times"
    )
    print(f"files at the end: {', '.join(left)}")


if __name__ == "__main__":
    main()
