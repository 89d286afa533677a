"""Answers kept as they come, so that a run of lm-eval that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdm_schedules.errors import StorageError
from mdm_schedules.integrations.accelerate.fingerprint import fingerprint
from mdm_schedules.lookup import schedule_for_steps
from mdm_schedules.sampling.generation import own_schedule

if TYPE_CHECKING:
    from mdm_schedules.integrations.lm_eval.model import MaskedDiffusionLM


def answer_files(output: Path) -> list[Path]:
    """The files that hold the answers so far of the run whose results go to `output`."""
    start = f"{output.name}.answers."
    try:
        beside = sorted(output.parent.iterdir())
    except OSError:
        return []
    return [file for file in beside if file.name.startswith(start) and file.suffix == ".jsonl"]


def count_answers(output: Path) -> int:
    """How many answers they hold, those of other settings among them."""
    return sum(1 for file in answer_files(output) for _ in _lines(file))


def keep_answers(lm: MaskedDiffusionLM, output: Path) -> None:
    """Let `lm` read what is kept for `output`, and keep what it answers."""
    steps = lm.options.get("steps")
    steps = steps if isinstance(steps, int) else None
    given = lm.options.get("schedule")
    schedule = own_schedule(lm.model, steps) if given is None else schedule_for_steps(given, steps)
    options = {**lm.options, "seed": lm.seed, "mc_num": lm.mc_num}
    told = fingerprint(lm.model, schedule, options, lm.tokenizer, "", sharded=False)
    lm.kept = KeptAnswers(output, told, lm.rank)


class KeptAnswers:
    """One JSON line for each answer, under a digest of all that decides it.

    Answers of other settings, or of another model, have other digests: they may stand in the same
    file, and are not found. Each process appends to a file of its own and reads those of all, since
    the next run may have another number of processes.

    Args:
        output: where the results go; `.answers.N.jsonl` is added to its name.
        about: what decides every answer: model and settings.
        rank: N, the number of this process.

    Raises:
        StorageError: a file cannot be read or written.
    """

    def __init__(self, output: Path, about: dict[str, Any], rank: int = 0) -> None:
        self.about = about
        self.file = output.with_name(f"{output.name}.answers.{rank}.jsonl")
        self._answers = dict(line for file in answer_files(output) for line in _lines(file))

    def through(
        self, work: Sequence[Any], run: Callable[[list[Any]], Iterator[tuple[Any, ...]]]
    ) -> Iterator[tuple[Any, ...]]:
        """What `run(work)` yields: known answers first, then the others as they come.

        Args:
            work: dataclasses, of which each decides its answer.
            run: for a part of `work`, yields the place in it and the answer of each.
        """
        keys = [self._key(one) for one in work]
        for i, key in enumerate(keys):
            if key in self._answers:
                yield i, *self._answers[key]
        rest = [i for i, key in enumerate(keys) if key not in self._answers]
        for place, *answer in run([work[i] for i in rest]) if rest else ():
            self._keep(keys[rest[place]], answer)
            yield rest[place], *answer

    def _key(self, one: Any) -> str:
        told = [self.about, type(one).__name__, asdict(one)]
        text = json.dumps(told, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _keep(self, key: str, answer: list[Any]) -> None:
        # the line break comes first, so that a line which a killed process left torn ends here
        line = "\n" + json.dumps({"key": key, "answer": answer})
        try:
            with open(self.file, "ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise StorageError(f"cannot write {self.file}: {error.strerror or error}") from error


def _lines(file: Path) -> Iterator[tuple[str, list[Any]]]:
    """The key and answer of each whole line; one that was torn is passed over."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    for line in data.splitlines():
        try:
            told = json.loads(line)
            yield str(told["key"]), list(told["answer"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
