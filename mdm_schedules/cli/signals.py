"""Ctrl-C, TERM and HUP end the work in order: one line says what is kept, and how it goes on."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

WORKER = "MDM_SCHEDULES_WORKER"  # set in the environment of processes that `launch` starts


class Stopped(KeyboardInterrupt):
    """An end that a signal asked for; libraries clean up as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """TERM and HUP raise `Stopped`, where they are not ignored (nohup) or handled already."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # nohup ignores HUP, and that must stay so.
        if number is None or signal.getsignal(number) != signal.SIG_DFL:
            continue
        try:
            before[number] = signal.signal(number, stop)
        except ValueError:  # not the main thread
            break
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def number_of(stop: KeyboardInterrupt) -> int:
    """The signal: 2 for Ctrl-C."""
    return stop.number if isinstance(stop, Stopped) else int(signal.SIGINT)


def is_quiet() -> bool:
    """Whether another process reports the signal: the launcher, or the first of the job."""
    return WORKER in os.environ or os.environ.get("RANK", "0") != "0"


def goes_on(stop: KeyboardInterrupt, args: argparse.Namespace | None) -> str:
    """What stopped it, what is kept, and the command that goes on."""
    number = number_of(stop)
    how = "by Ctrl-C" if number == signal.SIGINT else f"by signal {signal.Signals(number).name}"
    kept = getattr(args, "kept", None)
    return f"stopped {how}" + (f"; {kept(args)}" if kept is not None else "")


def same_command(argv: Sequence[str], *without: str) -> str:
    """The command that goes on, as a shell takes it, without flags that would start anew."""
    words = [word for word in argv if word not in without]
    return f"this command goes on: mdm-schedules {shlex.join(words)}"
