"""Many prompts through `generate`, in batches of like ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdm_schedules.models import ModelAdapter
from mdm_schedules.sampling.batching import in_batches
from mdm_schedules.sampling.generation import generate
from mdm_schedules.sampling.prompt import left_pad


@dataclass(frozen=True)
class Job:
    """One answer to write: the prompt's token ids, the seed, and options of `generate`."""

    prompt: list[int]
    seed: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether only the masks in the prompt are filled, so that the answer is the whole text."""
        return not self.options["max_new_tokens"]


def write(
    adapter: ModelAdapter, jobs: Sequence[Job], batch_size: int, tokenizer: Any
) -> Iterator[tuple[int, list[int], int]]:
    """Each job's number, the ids of its answer, and the passes spent on it, as they are written.

    An answer goes up to the first of its `eos_token_id`, which is its last id.
    """
    # One call of `generate` has one set of options; a task may give its requests different ones.
    groups: dict[str, list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        groups[repr(sorted(job.options.items()))].append(i)
    for group in groups.values():
        # The longest first: what does not fit into memory fails at once, and neighbours pad little.
        group.sort(key=lambda i: len(jobs[i].prompt), reverse=True)
        lengths = [len(jobs[i].prompt) for i in group]
        for batch in in_batches(adapter, lengths, batch_size):
            yield from _write_batch(adapter, jobs, [group[i] for i in batch], tokenizer)


def _write_batch(
    adapter: ModelAdapter, jobs: Sequence[Job], batch: list[int], tokenizer: Any
) -> Iterator[tuple[int, list[int], int]]:
    width, options = max(len(jobs[i].prompt) for i in batch), jobs[batch[0]].options
    tokens, attention_mask = left_pad([jobs[i].prompt for i in batch], tokenizer.pad_token_id or 0)
    out = generate(
        adapter.model,
        tokens,
        attention_mask,
        seed=[jobs[i].seed for i in batch],
        tokenizer=tokenizer,
        **options,
    )
    spent = out.nfe_per_row.tolist()
    for i, ids, passes in zip(batch, out.sequences.tolist(), spent, strict=True):
        job = jobs[i]
        answer = ids[width - len(job.prompt) if job.whole else width :]
        # `width` is the padded prompt; an infilled text starts where its own padding ends.
        ends = job.options.get("eos_token_id") or ()
        yield (
            i,
            answer[: next((k for k, token in enumerate(answer, 1) if token in ends), len(answer))],
            passes,
        )
