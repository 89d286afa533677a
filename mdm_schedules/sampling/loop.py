"""The sampling loop: fill every mask of a batch, revealing what the plan says, where the policy says.

Counts are known on the host before the first pass, so the loop never waits for the device: rows of logits are chosen by
index tensors built from the plan, and one check at the end of a block tells unusable logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, check_int
from mdm_schedules.plan import MAX_STEPS, check_plan, share_out
from mdm_schedules.registry import get_schedule
from mdm_schedules.sampling.draw import DrawOptions, TokenDraw, check_logits
from mdm_schedules.sampling.noise import TOKEN, SequenceNoise, check_seed, sequence_noise
from mdm_schedules.sampling.output import GenerationOutput, StepInfo
from mdm_schedules.sampling.policy import Ancestral, ConfidencePolicy, OrderPolicy, get_policy
from mdm_schedules.schedules import Schedule

Callback = Callable[[StepInfo], object]


class Denoiser(Protocol):
    """What the loop asks of a model: logits for some positions of some sequences."""

    def __call__(self, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits of the wanted positions.

        Args:
            tokens: LongTensor [B, L], to be read only.
            rows: LongTensor [R], positions as b * L + column.

        Returns:
            logits [R, V]; or logits [M, V] of more positions together with the LongTensor [R] of the wanted ones.
        """


def sample(
    denoiser: Denoiser,
    tokens: torch.Tensor,
    *,
    mask_token_id: int,
    schedule: str | Schedule = "linear",
    steps: int | Sequence[int] | None = None,
    plan: Any = None,
    block_ends: Sequence[int] | None = None,
    remasking: str | ConfidencePolicy | OrderPolicy = "low_confidence",
    draw: DrawOptions | None = None,
    seed: int | Sequence[int] | torch.Tensor | None = None,
    own: torch.Tensor | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    output_history: bool = False,
) -> GenerationOutput:
    """Fill the mask tokens of `tokens`; `mdm_schedules.generate` is the same with a model in place of a denoiser.

    Args:
        denoiser: see `Denoiser`; a function of two arguments.
        tokens: LongTensor [B, L]; never changed.
        mask_token_id: the id to be filled; never drawn.
        schedule: name, spec or Schedule, for the number of tokens per step.
        steps: passes, or passes per block; None is one pass per token of the fullest row.
        plan: tokens per step instead of a schedule, [steps] or [B, steps], summing to each block's masked tokens.
        block_ends: columns where blocks end, for filling block by block from the left; None is one block.
        remasking: position policy, by name or an object.
        draw: temperature, top_k, top_p and what may not be drawn.
        seed: None, an int, or one int per row. An int gives each row noise that depends on it and on the row's prompt.
        own: bool [B, L], False on padding, so that noise is counted from the sequence's own first token.
        callback: called with a `StepInfo` after each pass.
        progress: show a progress bar.
        output_history: keep the tokens after each pass.

    Raises:
        MDMError: on a wrong argument, before the first pass; on unusable logits, after the block they came in.
    """
    policy = get_policy(remasking)
    _check_tokens(tokens, mask_token_id)
    own = torch.ones_like(tokens, dtype=torch.bool) if own is None else own.bool()
    seeds = check_seed(seed, len(tokens))
    run = _Run(
        denoiser=denoiser,
        tokens=tokens.clone(),
        policy=policy,
        draw=TokenDraw(draw or DrawOptions(), policy, mask_token_id),
        noise=sequence_noise(seeds, tokens, own, distinct=seed is None or isinstance(seed, int)),
        position=own.long().cumsum(1) - 1,
        report=callback is not None or output_history,
    )
    masked = (tokens == mask_token_id) & own
    spans = _spans(block_ends, tokens.shape[1])
    # the one place where the host waits for the device
    counts = torch.stack([masked[:, start:end].sum(1) for start, end in spans], 1).cpu()
    shares = _steps_per_block(steps, counts)
    tables = _tables(get_schedule(schedule), plan, counts, shares, steps is not None, run, masked, spans)
    total = sum(int((table > 0).any(0).sum()) for table in tables)
    history = []
    with tqdm(total=total, disable=not progress, desc="denoising", unit="pass") as bar:
        for block, ((start, end), table) in enumerate(zip(spans, tables, strict=True)):
            for done in run.fill(masked, start, end, table.numpy(), block):
                bar.update()
                if done is None:
                    continue
                info = StepInfo(run.nfe, total, *done)
                if output_history:
                    history.append(info.tokens.clone())
                if callback is not None:
                    callback(info)
            run.check()
    merged = torch.cat(tables, 1)
    return GenerationOutput(run.tokens, run.nfe, (merged > 0).sum(1), merged, seeds, history=history)


def _check_tokens(tokens: Any, mask_token_id: int) -> None:
    if not isinstance(tokens, torch.Tensor) or tokens.dtype != torch.long or tokens.ndim != 2:
        given = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, torch.Tensor) else type(tokens).__name__
        raise InvalidTypeError(f"tokens must be a LongTensor [batch, length], got {given}")
    if tokens.numel() == 0:
        raise InvalidValueError(f"tokens must not be empty, got shape {tuple(tokens.shape)}")
    check_int("mask_token_id", mask_token_id, 0)


def _spans(ends: Sequence[int] | None, length: int) -> list[tuple[int, int]]:
    """Columns [start, end) of each block; what lies left of the first end belongs to the first block."""
    ends = [length] if ends is None else list(ends)
    starts = [0, *ends[:-1]]
    if not ends or ends[-1] != length or any(end <= start for start, end in zip(starts, ends, strict=True)):
        raise InvalidValueError(f"block_ends must increase to the sequence length {length}, got {ends}")
    return list(zip(starts, ends, strict=True))


def _steps_per_block(steps: int | Sequence[int] | None, counts: torch.Tensor) -> list[int]:
    blocks = counts.shape[1]
    if steps is None:
        return [max(1, int(count)) for count in counts.max(0).values]
    given = list(steps) if isinstance(steps, Sequence) and not isinstance(steps, str) else [steps]
    if len(given) != blocks:
        raise InvalidValueError(f"steps must be one number for each of the {blocks} blocks, got {steps!r}")
    return [check_int("steps", step, 1, MAX_STEPS, example="steps=16") for step in given]


def split_steps(steps: int, lengths: Sequence[int]) -> list[int]:
    """Share `steps` passes among blocks in proportion to their lengths, at least one each, exactly `steps` in all."""
    if steps < len(lengths):
        raise InvalidValueError(f"steps must be at least the number of blocks, {len(lengths)}, got {steps}")
    weights = torch.tensor(lengths, dtype=torch.float64)
    return share_out(weights.cumsum(0) / weights.sum(), torch.tensor([steps]))[0].tolist()  # type: ignore[no-any-return]


def _tables(
    schedule: Schedule,
    plan: Any,
    counts: torch.Tensor,
    shares: list[int],
    steps_given: bool,
    run: _Run,
    masked: torch.Tensor,
    spans: list[tuple[int, int]],
) -> list[torch.Tensor]:
    """Per block, the tokens that each row reveals in each step: LongTensor [B, K] on the host."""
    if plan is not None:
        if steps_given or isinstance(run.policy, Ancestral):
            other = "steps" if steps_given else "remasking='ancestral', whose counts are random"
            raise InvalidValueError(f"give a plan or {other}, not both")
        return [check_plan(plan, count) for count in counts.unbind(1)]
    if not isinstance(run.policy, Ancestral):
        return [schedule.plan(count, share) for count, share in zip(counts.unbind(1), shares, strict=True)]
    tables = []
    row = torch.arange(len(masked), device=masked.device)[:, None]
    uniform = 1 - run.policy.score(row, run.position, run.noise)
    for (start, end), share in zip(spans, shares, strict=True):
        grid = schedule.alpha(torch.arange(1, share + 1, dtype=torch.float64) / share).to(masked.device)
        step = torch.searchsorted(grid, uniform[:, start:end].contiguous(), right=True).clamp(max=share - 1)
        table = torch.zeros(len(masked), share, dtype=torch.long, device=masked.device)
        tables.append(table.scatter_add_(1, step, masked[:, start:end].long()).cpu())
    return tables


@dataclass
class _Run:
    """One call of `sample`: what it works with, the tokens as they are now, and what was spent."""

    denoiser: Denoiser
    tokens: torch.Tensor
    policy: ConfidencePolicy | OrderPolicy
    draw: TokenDraw
    noise: SequenceNoise
    position: torch.Tensor  # [B, L], counted from the sequence's own first token
    report: bool
    nfe: int = 0
    troubles: list[tuple[int, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def fill(
        self, masked: torch.Tensor, start: int, end: int, table: np.ndarray, block: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor] | None]:
        """Fill one block; after each pass, the tokens and what was revealed if a report is wanted, else None."""
        left = table.sum(1)
        if not left.any():
            return
        # columns of the masked positions of each row, from the left or in the order of the policy; then unused ones
        every = torch.arange(len(masked), device=masked.device)[:, None]
        key = torch.zeros(end - start, dtype=torch.float64, device=masked.device)
        if isinstance(self.policy, OrderPolicy):
            key = -self.policy.score(every, self.position[:, start:end], self.noise)
        slots = (
            torch.where(masked[:, start:end], key, torch.inf).argsort(dim=1, stable=True)[:, : int(left.max())] + start
        )
        done = np.zeros_like(left)
        for step in range(table.shape[1]):
            commit = table[:, step]
            if not commit.any():
                continue
            before = self.tokens.clone() if self.report else None
            if isinstance(self.policy, OrderPolicy):
                self._reveal(slots, self._cells(slots, done, commit), block, step)
            else:
                cells = self._cells(slots, np.zeros_like(left), np.where(commit > 0, left, 0))
                slots = self._reveal_best(slots, cells, commit, block, step)
            self.nfe += 1
            done, left = done + commit, left - commit
            yield None if before is None else (self.tokens.clone(), self.tokens != before)

    def _cells(self, slots: torch.Tensor, offset: np.ndarray, count: np.ndarray) -> torch.Tensor:
        """Flat indices into a [B, W] grid of the count[b] cells of each row that begin at offset[b]."""
        before = np.cumsum(count) - count
        first = np.arange(len(count)) * slots.shape[1] + offset - before
        cells = np.repeat(first, count) + np.arange(int(count.sum()))
        return torch.from_numpy(cells).to(slots.device, non_blocking=True)

    def _reveal(
        self, slots: torch.Tensor, cells: torch.Tensor, block: int, step: int, write: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Ask for the logits of the given cells, draw a token for each, and write it where the order is known."""
        row, column = cells // slots.shape[1], slots.flatten()[cells]
        wanted = row * self.tokens.shape[1] + column
        answer = self.denoiser(self.tokens, wanted)
        logits, index = answer if isinstance(answer, tuple) else (answer, None)
        if not self.nfe:
            check_logits(logits, index, len(wanted))
        uniform = None
        if self.draw.options.temperature > 0:
            uniform = self.noise.uniform(TOKEN, (block << 32) + step, row, self.position[row, column])
        drawn, score, usable = self.draw(logits, index, uniform, lambda i, j: self.tokens[row[i:j]])
        self.troubles.append((self.nfe + 1, row, usable))
        if write:
            self.tokens.view(-1)[wanted] = drawn
        return drawn, score

    def _reveal_best(
        self, slots: torch.Tensor, cells: torch.Tensor, commit: np.ndarray, block: int, step: int
    ) -> torch.Tensor:
        """Draw for all masked cells, write the best-scored ones, and move what is left to the front of `slots`."""
        drawn, score = self._reveal(slots, cells, block, step, write=False)
        assert score is not None
        scores = torch.full(slots.shape, -torch.inf, dtype=score.dtype, device=slots.device)
        scores.view(-1)[cells] = score
        tokens = torch.zeros_like(slots)
        tokens.view(-1)[cells] = drawn
        order = scores.argsort(dim=1, descending=True, stable=True)
        best = self._cells(slots, np.zeros_like(commit), commit)
        row = best // slots.shape[1]
        column = order.flatten()[best]
        self.tokens[row, slots[row, column]] = tokens[row, column]
        spent = torch.zeros_like(slots, dtype=torch.bool)
        spent[row, column] = True
        return slots.gather(1, spent.to(torch.int8).argsort(dim=1, stable=True))

    def check(self) -> None:
        """Raise for the first pass whose logits could not be used."""
        for step, row, usable in self.troubles:
            if not bool(usable.all()):
                raise InvalidValueError(
                    f"the model gave logits with NaN, +inf or nothing left to draw, at pass {step} "
                    f"for row {int(row[~usable][0])}"
                )
        self.troubles.clear()
