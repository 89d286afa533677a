"""Messages between the processes of one job, through torch.distributed's key-value store.

No collective operation is used: when a process dies, the others stop `timeout` seconds later, after
their batch.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from mdm_schedules import errors
from mdm_schedules.errors import DistributedError, MDMError
from mdm_schedules.models.wrappers import unwrap

POLL = 0.02  # seconds between two looks at the store
BEAT = 1.0  # seconds between two signs of life
# seconds that a process may come later than the first, which may still be loading its model
START = 600.0
LINGER = 5.0  # seconds
_jobs = itertools.count()  # every process starts its jobs in the same order, which numbers them


class LocalStore:
    """The store of a job of one process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        with self.lock:
            self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""
        return all(key in self.values for key in keys)

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return it."""
        with self.lock:
            total = int(self.values.get(key, b"0")) + amount
            self.values[key] = str(total).encode()
            return total

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Set a key that is not there yet; its value."""
        with self.lock:
            return self.values.setdefault(key, value.encode())


# A prefix of its own for each job, because the keys of earlier jobs stay in the store.
def _shared_store() -> Any:
    from torch.distributed import PrefixStore
    from torch.distributed.distributed_c10d import _get_default_store

    return PrefixStore(f"mdm_schedules/{next(_jobs)}", _get_default_store())


class Job:
    """One call of `generate_distributed` on all its processes.

    A context manager: a failure inside it is reported to the other processes.

    Args:
        rank: of this process.
        world: number of processes.
        timeout: seconds after which a process that gives no sign of life is taken for dead.

    Attributes:
        tick: called with the job about once a second, by a thread; for the progress bar.
    """

    def __init__(self, rank: int, world: int, timeout: float) -> None:
        self.rank, self.world, self.timeout = rank, world, timeout
        self.tick: Callable[[Job], None] | None = None
        self.store = _shared_store() if world > 1 else LocalStore()
        # the last sign of life of the process that this one watches, and when it was new
        self.seen = (0, 0.0)
        self.failed: set[int] = set()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Job:
        self.thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._fail(error)
        self.over.set()
        self.thread.join(BEAT)

    def _beat(self) -> None:
        while True:
            try:
                # A thread of its own, since the main one may be in a long forward pass.
                self.store.add(f"beat/{self.rank}", 1)
                if self.world > 1:
                    # In a ring: each process watches one other, so the store's traffic grows with
                    # their number and not with its square.
                    self._watch((self.rank + 1) % self.world)
                if self.tick is not None:
                    self.tick(self)
            # without the store the next call of the main thread fails, and says so
            except Exception:
                return
            if self.over.wait(BEAT):
                return

    def _watch(self, rank: int) -> None:
        """Report another process if it has been silent for long.

        Each process watches the next one, so that all are watched.
        """
        beat, now = self.store.add(f"beat/{rank}", 0), time.monotonic()
        if beat != self.seen[0]:
            self.seen = beat, now
        # `beat` is 0 before the first sign: a process that still loads its model is not dead.
        elif beat and now - self.seen[1] > self.timeout and not self.store.check([f"left/{rank}"]):
            text = f"it has given no sign of life for {self.timeout:g} seconds"
            text += (
                "; what is finished is kept where there is an output_path, and the same call does "
                "the rest"
            )
            self._report(rank, DistributedError(text))

    def _ask(self, what: str, *args: Any) -> Any:
        try:
            return getattr(self.store, what)(*args)
        except RuntimeError as error:  # torch's errors of the store are all below it
            raise DistributedError(
                f"process {self.rank} lost contact with the other processes: {error}"
            ) from error

    def _fail(self, error: BaseException) -> None:
        """Report the failure to the others.

        The main process, which may hold the store, stays a little so that they can learn of it.
        """
        try:
            if (
                not hasattr(error, "remote")
                and not self._report(self.rank, error)
                and isinstance(error, MDMError)
            ):
                error.remote = True  # type: ignore[attr-defined]  # another process was first
            self.store.set(f"left/{self.rank}", "")
            # The main process may hold the store, so it stays until the others have read the
            # report.
            end = time.monotonic() + (
                LINGER if self.rank == 0 and isinstance(error, Exception) else 0
            )
            others = [f"left/{rank}" for rank in range(self.world) if rank not in self.failed]
            while time.monotonic() < end and not self.store.check(others):
                time.sleep(POLL)
        except RuntimeError:
            pass  # no process is left to report to

    def _report(self, rank: int, error: BaseException) -> bool:
        """Report the failure of process `rank` to all; False if another was reported before."""
        if self.store.add("failures", 1) > 1:
            return False
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        report = {
            "rank": rank,
            "teller": self.rank,
            "kind": type(error).__name__,
            "message": str(error),
        }
        self.store.set("failure", json.dumps({**report, "traceback": text}))
        return True

    def check(self) -> None:
        """Raise what a process failed with.

        The error has the same class if that is ours, and carries the traceback of that process. Its
        attribute `remote` says whether another process reports it to the user.
        """
        if not self._ask("check", ["failure"]):
            return
        failure = json.loads(self._ask("get", "failure"))
        self.failed.add(failure["rank"])
        # Raised with its own class everywhere, so that `except InvalidValueError` works on any
        # process.
        kind: Any = getattr(errors, failure["kind"], None)
        known = isinstance(kind, type) and issubclass(kind, MDMError)
        text = failure["message"] if known else f"{failure['kind']}: {failure['message']}"
        error: Any = (kind if known else DistributedError)(
            f"process {failure['rank']} failed: {text}"
        )
        error.remote = failure["teller"] != self.rank
        raise error from DistributedError(f"in process {failure['rank']}:\n{failure['traceback']}")

    def _wait(self, name: str, ranks: list[int]) -> None:
        """Wait until the ranks have set `name`.

        Raises if a process has failed, or if one of the ranks has not even begun for long.
        """
        start = time.monotonic()
        for rank in ranks:
            while not self._ask("check", [f"{name}/{rank}"]):
                self.check()
                # Adding 0 reads a counter, and makes one that is not there yet.
                if time.monotonic() - start > START and not self._ask("add", f"beat/{rank}", 0):
                    raise DistributedError(
                        f"process {rank} has not called generate_distributed for {START:g} seconds"
                    )
                time.sleep(POLL)

    def share(self, name: str, value: Any) -> list[Any]:
        """The value (JSON) that each process gives, by rank; all must call it."""
        self._ask("set", f"{name}/{self.rank}", json.dumps(value))
        self._wait(name, list(range(self.world)))
        return [json.loads(self._ask("get", f"{name}/{rank}")) for rank in range(self.world)]

    def tell(self, name: str, value: Any) -> None:
        """Give a value (JSON) to those who `hear` it."""
        self._ask("set", f"{name}/{self.rank}", json.dumps(value))

    def hear(self, name: str, rank: int = 0) -> Any:
        """The value that `rank` has set under `name`."""
        self._wait(name, [rank])
        return json.loads(self._ask("get", f"{name}/{rank}"))

    def agree(self, name: str, value: str) -> bool:
        """Whether the first process that came here had the same value."""
        return bool(self._ask("compare_set", name, "", value) == value.encode())

    def count(self, **amounts: int) -> None:
        """Add to counters of the whole job."""
        for name, amount in amounts.items():
            self._ask("add", f"count/{name}", amount)

    def counted(self, name: str) -> int:
        """A counter of the whole job."""
        return int(self._ask("add", f"count/{name}", 0))

    def leave(self) -> None:
        """The end: the main process, which may hold the store, goes last."""
        self.tell("left", True)
        if self.rank == 0:
            with suppress(MDMError):  # all is done
                self._wait("left", list(range(self.world)))


class Tickets:
    """Numbers of the batches that this process does, in rising order.

    A *lane* is the processes that hold one model together and must run each pass together: a single
    one, where each has a whole model. A lane takes the next number when it is free; or, if `even`,
    every so many-th is its own.
    """

    def __init__(self, job: Job, lane: list[int], even: bool) -> None:
        self.job, self.leader, self.even = job, min(lane), even
        # One ticket for each lane: its lowest rank draws it, the others hear which it is.
        leaders = sorted(set(job.share("leader", self.leader)))
        self.number, self.lanes = leaders.index(self.leader), len(leaders)
        self.shared = len(lane) > 1
        self.taken = 0

    def take(self) -> int:
        """The next number; the same on all processes of the lane."""
        self.job.check()
        self.taken += 1
        if self.even:
            self.number += self.lanes if self.taken > 1 else 0
            return self.number
        if self.job.rank != self.leader:
            return int(self.job.hear(f"ticket{self.taken}", self.leader))
        # The store's counter is atomic: no two lanes get the same number, and a fast lane draws
        # more.
        ticket = int(self.job._ask("add", "tickets", 1)) - 1
        if self.shared:
            self.job.tell(f"ticket{self.taken}", ticket)
        return ticket


def lane_of(model: Any, rank: int, world: int) -> list[int]:
    """The ranks over which the weights of `model` are spread; they must run each pass together."""
    module = unwrap(model)
    if world == 1 or not isinstance(module, torch.nn.Module):
        return [rank]
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    parameters = list(module.parameters())
    # FSDP 1 and ZeRO-3 gather weights over all processes; DTensors and tensor parallelism say over
    # which.
    together = any(isinstance(part, FullyShardedDataParallel) for part in module.modules())
    # DeepSpeed ZeRO-3
    together = together or any(hasattr(parameter, "ds_id") for parameter in parameters)
    if together:
        return list(range(world))
    ranks = {
        int(r)
        for p in parameters
        if isinstance(p, DTensor)
        for r in p.device_mesh.mesh.flatten().tolist()
    }
    mesh = getattr(module, "_device_mesh", None)  # transformers' tensor parallelism
    if not ranks and mesh is not None:
        ranks = {int(r) for r in mesh.mesh.flatten().tolist()}
    return sorted(ranks) or [rank]
