"""A worker ends with the process that started it, even one killed while the workers start."""

from __future__ import annotations

import os
import threading
import time

LAUNCHER = "MDM_SCHEDULES_LAUNCHER"  # its process id, told to the workers
_PAUSE = 1.0  # seconds between two looks


def end_with_parent() -> None:
    """End this process, if a launcher started it, soon after that has ended.

    What is finished is on the disk, and the same command does the rest.
    """
    if "LOCAL_RANK" not in os.environ:
        return
    told = os.environ.get(LAUNCHER, "")
    parent = int(told) if told.isdigit() else os.getppid()

    def watch() -> None:
        while os.getppid() == parent:  # an orphan gets another parent
            time.sleep(_PAUSE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()
