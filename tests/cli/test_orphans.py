"""A worker whose launcher was killed ends, however early that was."""

import os
import subprocess
import sys
import time

import pytest

WORKER = """
import time
from mdm_schedules.cli.launch import end_with_parent
end_with_parent()
print("watching", flush=True)
time.sleep(600)
"""
LAUNCHER = """
import os, subprocess, sys
from mdm_schedules.cli.signals import WORKER
os.environ[WORKER] = "1"
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
print(worker.pid, flush=True)
worker.wait()
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")
@pytest.mark.parametrize("early", [False, True], ids=["at work", "while it starts"])
def test_a_worker_ends_when_its_launcher_is_killed(early: bool) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, WORKER], stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    assert early or launcher.stdout.readline() == "watching\n"
    launcher.kill()
    launcher.wait()
    end = time.monotonic() + 120
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.1)
    gone = not alive(pid)
    if not gone:
        os.kill(pid, 9)
    assert gone
