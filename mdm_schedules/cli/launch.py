"""Several processes of one command on this machine: they start together and end together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from mdm_schedules.cli.signals import WORKER
from mdm_schedules.errors import DistributedError

GRACE = 10.0  # seconds that the others have to end by themselves, once one has


def launch(words: Sequence[str], count: int, stdout: int | None = None) -> None:
    """Run this command line with `words` on `count` processes, as torchrun would.

    The processes are no part of the terminal's group, so that Ctrl-C reaches this one alone, which
    then ends them. Each holds the other end of a pipe and ends with this process, however that
    ends.

    Raises:
        DistributedError: a signal ended one of them.
        SystemExit: one of them failed, and has said why.
    """
    workers: list[subprocess.Popen[bytes]] = []
    # What torchrun sets, with the cores shared out where nobody has said otherwise.
    environment = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        WORKER: "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    try:
        for rank in range(count):
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "mdm_schedules", *words],
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    # Nothing is written to it: it closes when this process ends, which
                    # `end_with_parent` waits for.
                    stdin=subprocess.PIPE,
                    stdout=stdout,
                    # Ctrl-C goes to this process alone, which ends the others in order.
                    start_new_session=True,
                )
            )
        failed = _first_failure(workers)
        if failed is not None and workers[failed].returncode > 0:  # the others learn it, too
            _wait(workers, GRACE)
    finally:
        _end(workers)
    if failed is None:
        return
    status = workers[failed].returncode
    if status > 0:
        raise SystemExit(1)
    raise DistributedError(
        f"process {failed} was ended by signal {-status} (9 is often a lack of memory); what is "
        "finished is kept: the same command does the rest"
    )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _first_failure(workers: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until one has failed, or all are done."""
    while True:
        states = [worker.poll() for worker in workers]
        for rank, state in enumerate(states):
            if state:
                return rank
        if None not in states:
            return None
        time.sleep(0.05)


def _wait(workers: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(worker.poll() is None for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """End those that still run: in order, then by force."""
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    _wait(workers, GRACE)
    for worker in workers:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
        if worker.stdin is not None:
            worker.stdin.close()


def end_with_parent() -> None:
    """In a process that `launch` started: end when the one that started it has ended."""
    if WORKER not in os.environ:
        return

    def watch() -> None:
        while True:  # nothing is ever written
            try:
                if not os.read(0, 1):
                    break
            except OSError:
                break
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + int(signal.SIGTERM))

    threading.Thread(target=watch, daemon=True).start()
