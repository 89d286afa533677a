"""What the commands share: how they are added, and how they print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from mdm_schedules.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mdm_schedules.hub import Evaluation


class Command(Protocol):
    """Adds one command: its name, what it runs, and what it does in a sentence."""

    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser: ...


def positive(text: str) -> int:
    """An argument that is an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def show_result(args: argparse.Namespace, data: Any, text: str) -> None:
    """Print `data` as JSON for machines, or `text`."""
    print(json.dumps(data, indent=2) if args.json else text)


@contextmanager
def in_shell_words() -> Iterator[None]:
    """Where several schedules fit, the choice as arguments of the command line."""
    from mdm_schedules.hub.places import SeveralSchedulesError

    try:
        yield
    except SeveralSchedulesError as error:
        raise InvalidValueError(error.in_shell_words) from error


def scored(evaluation: Evaluation) -> str:
    """One line that tells what a schedule scored."""
    against = f", linear {evaluation.baseline_score}" if evaluation.baseline is not None else ""
    where = f"{evaluation.task} in {evaluation.steps} steps on {evaluation.model}"
    return f"{where}: {evaluation.metric} {evaluation.score}{against}"
