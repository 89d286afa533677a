"""Which prompts may share a batch; the one place where it is decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mdm_schedules.models import ModelAdapter, takes_padding
from mdm_schedules.sampling.noise import check_seed, plain_seed


def length_key(adapter: ModelAdapter) -> Callable[[int], int]:
    """A function of a prompt's length; prompts with equal keys may share a batch.

    They are padded on the left there. A model that cannot mask padding needs prompts of one length;
    one that attends by blocks needs prompts that end at the same place in a block.
    """
    if not takes_padding(adapter):
        return lambda length: length
    block = adapter.block_length or 1
    return lambda length: length % block


def in_batches(
    adapter: ModelAdapter, lengths: Sequence[int], batch_size: int | None = None
) -> Iterator[list[int]]:
    """The indices of prompts of these `lengths`, in batches that the model can run.

    Within a key the order is kept. The model is not asked where all lengths are equal, or where
    every batch holds one prompt.

    Args:
        adapter: of the model.
        lengths: of the prompts, without padding.
        batch_size: at most so many prompts in a batch; None for no bound.
    """
    alike = len(set(lengths)) <= 1 or batch_size == 1
    key = (lambda length: 0) if alike else length_key(adapter)
    groups: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        groups[key(length)].append(index)
    for group in groups.values():
        size = batch_size or len(group)
        for begin in range(0, len(group), size):
            yield group[begin : begin + size]


def in_calls(
    adapter: ModelAdapter, input_ids: Any, attention_mask: Any, options: Mapping[str, Any]
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The calls of `generate` that left-padded prompts take: one, where the model can run them all.

    Args:
        adapter: of the model.
        input_ids: LongTensor [B, P].
        attention_mask: [B, P], 0 on padding; None if nothing is padded.
        options: of `generate`.

    Yields:
        The rows of a call's answers among all answers, and all its arguments but the model.
    """
    call = {**options, "input_ids": input_ids, "attention_mask": attention_mask}
    copies = options.get("num_return_sequences") or 1
    tensors = isinstance(input_ids, torch.Tensor) and isinstance(attention_mask, torch.Tensor)
    if not tensors or input_ids.shape != attention_mask.shape or input_ids.ndim != 2:
        yield [], call  # nothing is padded, or `generate` says what is wrong
        return
    batches = list(in_batches(adapter, attention_mask.sum(1).tolist()))
    if len(batches) == 1:
        yield [], call
        return
    seed = plain_seed(options.get("seed"))
    if seed is None:  # one for all calls, as for one
        seed = check_seed(None, 1)[0]
    plan = options.get("plan")
    for batch in batches:
        rows = [row * copies + copy for row in batch for copy in range(copies)]
        ids, mask = input_ids[batch], attention_mask[batch]
        start = int((mask != 0).any(0).long().argmax())  # columns that are padding in all its rows
        call |= {"input_ids": ids[:, start:], "attention_mask": mask[:, start:]}
        call["seed"] = _of_rows(seed, rows, copies * len(input_ids))
        if plan is not None and torch.as_tensor(plan).ndim == 2:
            call["plan"] = _of_rows(torch.as_tensor(plan).tolist(), rows, copies * len(input_ids))
        yield rows, dict(call)


def _of_rows(value: Any, rows: list[int], count: int) -> Any:
    """What `rows` get of a `value` with one entry for each of `count` rows; others as they are."""
    if not hasattr(value, "__len__") or len(value) != count:
        return value
    return [value[row] for row in rows]


def joined(
    input_ids: torch.Tensor, parts: Sequence[tuple[list[int], torch.Tensor]]
) -> torch.Tensor:
    """The sequences [B, L] of all calls that `in_calls` made of `input_ids` [B0, P]."""
    if len(parts) == 1:
        return parts[0][1]
    count = sum(len(rows) for rows, _ in parts)
    prompts = input_ids.to(parts[0][1].device).repeat_interleave(count // len(input_ids), 0)
    width = max(sequences.shape[1] for _, sequences in parts)
    answer = torch.nn.functional.pad(prompts, (0, width - prompts.shape[1]))
    for rows, sequences in parts:
        answer[rows, width - sequences.shape[1] :] = sequences
    return answer
