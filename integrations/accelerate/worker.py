"""Does the work of one process: reads the prompts, runs its batches and writes their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from mdm_schedules.errors import DistributedError, InvalidValueError, MDMError
from mdm_schedules.integrations.accelerate.job import Job, Tickets
from mdm_schedules.integrations.accelerate.locked import Shard
from mdm_schedules.integrations.accelerate.prompts import Encoder, Prompt, Window, cut, windows
from mdm_schedules.integrations.accelerate.shards import Finished, Output
from mdm_schedules.models import ModelAdapter
from mdm_schedules.sampling.generation import generate
from mdm_schedules.sampling.noise import derive_seeds
from mdm_schedules.sampling.prompt import left_pad


@dataclass
class Worker:
    """One process of a job.

    Attributes:
        job: informs the other processes.
        model: the model in its adapter.
        options: all options of `generate`.
        tokenizer: decodes records; None for ids only.
        encoder: turns prompts into ids.
        tickets: decides which batches belong to this process.
        finished: the results of earlier runs.
        seed: the seed from which the prompts' seeds are derived.
        batch_size: prompts in one pass.
        group: maps a prompt's length to a number; only prompts with the same number share a batch.
        writes: whether this process writes the results of its lane.
        records: the records of this process, if there is no output file.
    """

    job: Job
    model: ModelAdapter
    options: dict[str, Any]
    tokenizer: Any
    encoder: Encoder
    tickets: Tickets
    finished: Finished
    seed: int
    batch_size: int
    group: Callable[[int], int]
    writes: bool
    records: list[dict[str, Any]] = field(default_factory=list)

    def work(self, source: Any, output: Output | None) -> int:
        """Do this process's batches; return the number of all prompts."""
        number = count = 0
        mine = self.tickets.take()
        with self._sink(output) as write:
            for window in windows(source):
                count += len(window.prompts)
                self._check_stream(window)
                # A finished window takes no tickets: `finished` is the same on all processes, and
                # so is the count.
                if all(prompt.index in self.finished for prompt in window.prompts):
                    continue
                # all processes count the same batches, so a ticket names the same batch on each
                for batch in cut(self.encoder(window.prompts), self.batch_size, self.group):
                    left = [prompt for prompt in batch if prompt.index not in self.finished]
                    if not left:
                        continue
                    if number == mine:
                        records, spent = self._batch(left)
                        if self.writes:
                            write(window, records)
                            self.job.count(prompts=len(left), **spent)
                        mine = self.tickets.take()
                    number += 1
        if not count:
            if output is not None and self.job.rank == 0:
                output.discard()
            raise InvalidValueError("there are no prompts: the file or list is empty")
        return count

    def check_complete(self, source: Any) -> int:
        """Check that the finished output belongs to these prompts; return their number."""
        count = 0
        for window in windows(source):
            count += len(window.prompts)
            self._check_stream(window)
        if count != self.finished.prompts:
            raise InvalidValueError(
                f"the finished output is that of {self.finished.prompts} prompts, but now there "
                f"are {count}; "
                "extend=True does prompts appended at the end, overwrite=True starts anew"
            )
        return count

    def _check_stream(self, window: Window) -> None:
        first, last = window.prompts[0].index, window.prompts[-1].index
        if self.finished.digests.get(window.number, window.digest) != window.digest:
            raise InvalidValueError(
                f"prompts up to {last} are not those of the results that are there: one of them, "
                "or their number, "
                "has changed; overwrite=True starts anew"
            )
        if not self.job.agree(f"window{window.number}", window.digest):
            raise DistributedError(
                f"the processes read different prompts, from {first} to {last} or before; each "
                "must be given them all"
            )

    @contextmanager
    def _sink(self, output: Output | None) -> Iterator[Any]:
        """Return a function that adds a batch's records to this process's shard, or to the list."""
        if output is None:
            yield lambda window, records: self.records.extend(records)
            return
        with closing(Shard(output.shard(self.job.rank))) as shard:
            # all shards must exist before the main process looks for them on its disk
            self.job.share("opened", True)
            if self.job.rank == 0:
                output.check_shared(self.job.world)
            yield lambda window, records: shard.append(window.number, window.digest, records)

    def _batch(self, batch: list[Prompt]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Run a batch; return its records and its increments to the job's counters."""
        # Prompts with an error are cut into batches of their own.
        if batch[0].error is not None:
            return [_head(prompt) | {"error": prompt.error} for prompt in batch], {
                "skipped": len(batch)
            }
        try:
            return self._generate(batch)
        except Exception as error:
            where = ", ".join(prompt.where for prompt in batch[:8]) + (
                ", ..." if len(batch) > 8 else ""
            )
            kind = type(error) if isinstance(error, MDMError) else DistributedError
            text = str(error) if isinstance(error, MDMError) else f"{type(error).__name__}: {error}"
            raise kind(f"{text} (process {self.job.rank}, in the batch of {where})") from error

    def _generate(self, batch: list[Prompt]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        copies = self.options["num_return_sequences"]
        longest = max(len(prompt.ids) for prompt in batch)
        tokens, attention_mask = left_pad([prompt.ids for prompt in batch])
        # From the index and not from the place in the batch: the same prompt gets the same tokens
        # on any number of processes, at any batch size.
        seeds = derive_seeds(self.seed, [prompt.index for prompt in batch], copies)
        options = {**self.options, "seed": seeds, "tokenizer": self.tokenizer}
        out = generate(self.model, tokens, attention_mask, **options)
        passes = out.nfe_per_row.tolist()
        records = []
        for row, sequence in enumerate(out.sequences.cpu()):
            prompt = batch[row // copies]
            ids = sequence[longest - len(prompt.ids) :].tolist()
            record = _head(prompt)
            if copies > 1:
                record["sample"] = row % copies
            if self.tokenizer is not None:
                record["text"] = self.tokenizer.decode(ids, skip_special_tokens=True)
                record["answer"] = self.tokenizer.decode(
                    ids[len(prompt.ids) :], skip_special_tokens=True
                )
            about = {
                "tokens": ids,
                "prompt_length": len(prompt.ids),
                "nfe": passes[row],
                "seed": seeds[row],
            }
            records.append(record | about)
        return records, {"tokens": int(out.plan.sum()), "nfe": out.nfe}


def _head(prompt: Prompt) -> dict[str, Any]:
    return (
        {"index": prompt.index} if prompt.id is None else {"index": prompt.index, "id": prompt.id}
    )
