"""The sampling loop: fill every mask of a batch, revealing what the plan says, where the policy
says.

Counts are known on the host before the first pass, so the loop never waits for the device: rows of
logits are chosen by index tensors built from the plan, and one check at the end of a block tells
unusable logits. Two options must ask the device something: `threshold` and `entropy_bound` for the
size of the next pass, after each pass; `eos_token_ids` for what has ended, every `EOS_EVERY`
passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, check_int, check_real
from mdm_schedules.registry import schedule_for_steps
from mdm_schedules.sampling.counts import CommitRule, ancestral_tables, block_spans, count_tables
from mdm_schedules.sampling.draw import DrawOptions, TokenDraw, check_logits
from mdm_schedules.sampling.noise import (
    REMASK,
    TOKEN,
    RowSeeds,
    SequenceNoise,
    check_seed,
    plain_seed,
)
from mdm_schedules.sampling.output import GenerationOutput, StepInfo
from mdm_schedules.sampling.policy import Ancestral, ConfidencePolicy, OrderPolicy, get_policy
from mdm_schedules.schedules import Schedule

# passes between two looks for finished rows; also looked for at the end of each block
EOS_EVERY = 8

Callback = Callable[[StepInfo], object]
Integers = np.ndarray[Any, np.dtype[np.int64]]


class Denoiser(Protocol):
    """What the loop asks of a model: logits for some positions of some sequences.

    A denoiser that has a method `keep(rows: LongTensor)` is told which rows of the batch go on when
    the others have ended; its later calls get only these. One without it is given the whole batch
    to the end.
    """

    def __call__(
        self, tokens: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits of the wanted positions.

        Args:
            tokens: LongTensor [B, L], to be read only.
            rows: LongTensor [R], positions as b * L + column.

        Returns:
            logits [R, V]; or logits [M, V] of more positions together with the LongTensor [R] of
            the wanted ones.
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
    commit: CommitRule | None = None,
    remask: float = 0.0,
    eos_token_ids: Sequence[int] = (),
    pad_token_id: int | None = None,
    answer_start: int = 0,
    crop: bool = False,
    callback: Callback | None = None,
    progress: bool = False,
    output_history: bool = False,
) -> GenerationOutput:
    """Fill the mask tokens of `tokens`; `mdm_schedules.generate` is the same with a model in place
    of a denoiser.

    Args:
        denoiser: see `Denoiser`; a function of two arguments.
        tokens: LongTensor [B, L]; never changed.
        mask_token_id: the id to be filled; never drawn.
        schedule: name, spec or Schedule, for the number of tokens per step.
        steps: passes, or passes per block; None is one pass per token, each row by its own number
            of them.
        plan: tokens per step instead of a schedule, [steps] or [B, steps], summing to each block's
            masked tokens.
        block_ends: columns where blocks end, for filling block by block from the left; None is one
            block.
        remasking: position policy, by name or an object.
        draw: temperature, top_k, top_p and what may not be drawn.
        seed: None, an int, or one int per row. A row's noise depends on its seed and its prompt; of
            rows with equal prompts all but the first get seeds derived from a single int, which the
            output's `seeds` tell.
        own: bool [B, L], False on padding, so that noise is counted from the sequence's own first
            token.
        commit: reveal more than the plan where the model is sure.
        remask: share in [0, 1] of a block's revealed tokens, chosen at random, that each pass masks
            again, as far as the steps left can fill them (ReMDM's capped rate, arXiv 2503.00307);
            the passes stay as planned.
        eos_token_ids: a row ends at its first such token in the answer once all before it is
            filled. What follows becomes `pad_token_id`, and the row leaves the batch.
        pad_token_id: what follows the end; None is the first of `eos_token_ids`.
        answer_start: column where the answer begins; before it nothing ends a row.
        crop: give the denoiser only the columns up to the end of the current block.
        callback: called with a `StepInfo` after each pass.
        progress: show a progress bar.
        output_history: keep the tokens after each pass.

    Raises:
        MDMError: on a wrong argument, before the first pass; on unusable logits, after the block
            they came in.
    """
    policy = get_policy(remasking)
    _check_tokens(tokens, mask_token_id)
    own = torch.ones_like(tokens, dtype=torch.bool) if own is None else own.bool()
    seed = plain_seed(seed)
    row_seeds = RowSeeds(
        check_seed(seed, len(tokens)), tokens, own, distinct=seed is None or isinstance(seed, int)
    )
    remask = check_real("remask", remask, 0, 1)
    ends = [check_int("eos_token_ids", token, 0) for token in eos_token_ids]
    fills = ends if pad_token_id is None else [*ends, check_int("pad_token_id", pad_token_id, 0)]
    if mask_token_id in fills:
        raise InvalidValueError(
            f"eos_token_ids and pad_token_id must not be the mask token, {mask_token_id}"
        )
    masked = (tokens == mask_token_id) & own
    run = _Run(
        denoiser=denoiser,
        tokens=tokens.clone(),
        policy=policy,
        draw=TokenDraw(draw or DrawOptions(), policy, mask_token_id),
        noise=row_seeds.noise,
        position=own.long().cumsum(1) - 1,
        mask_token_id=mask_token_id,
        commit=commit if commit is not None and commit.check(policy, remask) else None,
        remask=remask,
        eos=torch.tensor(ends, device=tokens.device) if ends else None,
        pad_token_id=[*ends, 0][0] if pad_token_id is None else pad_token_id,
        answer_start=answer_start,
        crop=crop,
        report=callback is not None or output_history,
        masked=masked,
    )
    spans = block_spans(block_ends, tokens.shape[1])
    # the one place where the host waits for the device, unless an option needs more
    counts = torch.stack([masked[:, start:end].sum(1) for start, end in spans], 1).cpu()
    schedule = schedule_for_steps(schedule, steps if isinstance(steps, int) else None)
    tables = count_tables(schedule, plan, counts, steps, policy)
    if isinstance(policy, Ancestral):
        tables = ancestral_tables(
            schedule, steps, policy, masked, run.position, spans, counts, run.noise
        )
    total = sum(int((table > 0).any(0).sum()) for table in tables)
    history = []
    with tqdm(total=total, disable=not progress, desc="denoising", unit="pass") as bar:
        for block, ((start, end), table) in enumerate(zip(spans, tables, strict=True)):
            for done in run.fill(start, end, table.numpy(), block):
                bar.update()
                if done is None:
                    continue
                info = StepInfo(run.nfe, total, *done)
                if output_history:
                    history.append(info.tokens.clone())
                if callback is not None:
                    callback(info)
            run.check()
    executed = (
        torch.from_numpy(np.stack(run.revealed, 1))
        if run.revealed
        else counts.new_zeros(len(tokens), 0)
    )
    return GenerationOutput(
        run.all_tokens(),
        run.nfe,
        (executed > 0).sum(1),
        executed,
        row_seeds.tolist(),
        history=history,
    )


def _check_tokens(tokens: Any, mask_token_id: int) -> None:
    if not isinstance(tokens, torch.Tensor) or tokens.dtype != torch.long or tokens.ndim != 2:
        given = (
            f"{tokens.dtype} {tuple(tokens.shape)}"
            if isinstance(tokens, torch.Tensor)
            else type(tokens).__name__
        )
        raise InvalidTypeError(f"tokens must be a LongTensor [batch, length], got {given}")
    if tokens.numel() == 0:
        raise InvalidValueError(f"tokens must not be empty, got shape {tuple(tokens.shape)}")
    check_int("mask_token_id", mask_token_id, 0)


@dataclass
class _Run:
    """One call of `sample`: what it works with, the rows that go on as they are now, and what was
    spent.
    """

    denoiser: Denoiser
    tokens: torch.Tensor  # [b, L], the rows that go on
    policy: ConfidencePolicy | OrderPolicy
    draw: TokenDraw
    noise: SequenceNoise
    position: torch.Tensor  # [b, L], counted from the sequence's own first token
    mask_token_id: int
    commit: CommitRule | None
    remask: float
    eos: torch.Tensor | None
    pad_token_id: int
    answer_start: int
    crop: bool
    report: bool
    masked: torch.Tensor  # bool [b, L], what is to be filled
    nfe: int = 0
    revealed: list[Integers] = field(default_factory=list)  # per pass, [B]
    troubles: list[tuple[int, Integers, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.final = self.tokens  # [B, L]; rows that have ended are written into it
        self.live: Integers = np.arange(len(self.tokens))

    def all_tokens(self) -> torch.Tensor:
        """The whole batch as it is now; a copy if a row has left."""
        if len(self.live) == len(self.final):
            return self.tokens
        return self.final.index_copy(
            0, torch.from_numpy(self.live).to(self.final.device), self.tokens
        )

    def fill(
        self, start: int, end: int, table: Integers, block: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor] | None]:
        """Fill one block; after each pass, the tokens and what was revealed if a report is wanted,
        else None.
        """
        table = table[self.live]
        size = table.sum(1)
        if not size.any():
            return
        left, done = size.copy(), np.zeros_like(size)
        slots = self._slots(start, end, int(size.max()))  # each row's masked columns come first
        for step in range(table.shape[1]):
            if step and step % EOS_EVERY == 0 and (keep := self._finish()) is not None:
                table, left, done, slots = (
                    table[keep],
                    left[keep],
                    done[keep],
                    slots[torch.from_numpy(keep)],
                )
            quota = np.minimum(table[:, step], left)
            again = np.minimum(
                np.floor(self.remask * done + 0.5).astype(np.int64), left - quota
            ) * (quota > 0)
            count = quota + again
            if not count.any():
                continue
            before = self.all_tokens().clone() if self.report else None
            forgotten = self._choose(slots, left, done, again, block, step) if again.any() else None
            if isinstance(self.policy, OrderPolicy):
                cells = self._cells(slots, np.zeros_like(done) if self.remask else done, count)
                self._reveal(slots, cells, end, block, step)
            else:
                slots, count = self._reveal_best(
                    slots, np.where(count > 0, left, 0), count, end, block, step
                )
            if forgotten is not None:
                self.tokens[forgotten] = self.mask_token_id
            self.nfe += 1
            done, left = done + count - again, left - count + again
            if self.remask:
                # a row that sits this pass out keeps its order, as it would alone, where the pass
                # is not run
                fresh = self._slots(start, end, slots.shape[1], (block << 32) + step + 1)
                slots = torch.where(
                    torch.from_numpy(count > 0).to(slots.device)[:, None], fresh, slots
                )
            row = np.zeros(len(self.final), dtype=np.int64)
            row[self.live] = count - again
            self.revealed.append(row)
            if before is None:
                yield None
            else:
                now = self.all_tokens().clone()
                yield now, now != before
        self._finish()

    def _slots(self, start: int, end: int, width: int, step: int = 0) -> torch.Tensor:
        """Columns [b, width] of a block: masked ones in the policy's order or from the left,
        filled ones, others.
        """
        every = torch.arange(len(self.tokens), device=self.tokens.device)[:, None]
        ours = self.masked[:, start:end]
        key = torch.zeros(ours.shape, dtype=torch.float64, device=self.tokens.device)
        if isinstance(self.policy, OrderPolicy):
            key = key - self.policy.score(every, self.position[:, start:end], self.noise, step)
        key = key.masked_fill(
            self.tokens[:, start:end] != self.mask_token_id, torch.finfo(key.dtype).max
        )
        return key.masked_fill(~ours, torch.inf).argsort(dim=1, stable=True)[:, :width] + start

    def _choose(
        self,
        slots: torch.Tensor,
        left: Integers,
        done: Integers,
        again: Integers,
        block: int,
        step: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the filled positions to mask again, uniformly at random."""
        cell = torch.arange(slots.shape[1], device=slots.device)
        low, high = (
            torch.from_numpy(bound).to(slots.device)[:, None] for bound in (left, left + done)
        )
        every = torch.arange(len(slots), device=slots.device)[:, None]
        key = self.noise.uniform(
            REMASK, (block << 32) + step, every, self.position.gather(1, slots)
        )
        order = key.masked_fill((cell < low) | (cell >= high), torch.inf).argsort(
            dim=1, stable=True
        )
        cells = self._cells(slots, np.zeros_like(again), again)
        row = cells // slots.shape[1]
        return row, slots[row, order.flatten()[cells]]

    def _cells(self, slots: torch.Tensor, offset: Integers, count: Integers) -> torch.Tensor:
        """Flat indices into a [b, W] grid of the count[b] cells of each row that begin at
        offset[b].
        """
        column = np.arange(slots.shape[1])
        cells = np.flatnonzero((column >= offset[:, None]) & (column < (offset + count)[:, None]))
        return torch.from_numpy(cells).to(slots.device, non_blocking=True)

    def _reveal(
        self,
        slots: torch.Tensor,
        cells: torch.Tensor,
        end: int,
        block: int,
        step: int,
        write: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Ask for the logits of the given cells, draw a token for each, and write it where the
        order is known.
        """
        row, column = cells // slots.shape[1], slots.flatten()[cells]
        logits, index = self._ask(row, column, end)
        if not self.nfe:
            check_logits(logits, index, len(cells))
        uniform = None
        if self.draw.options.temperature > 0:
            uniform = self.noise.uniform(
                TOKEN, (block << 32) + step, row, self.position[row, column]
            )
        drawn, score, usable = self.draw(logits, index, uniform, lambda i, j: self.tokens[row[i:j]])
        self.troubles.append((self.nfe + 1, self.live, row, usable))
        if write:
            self.tokens[row, column] = drawn
        return drawn, score

    def _ask(
        self, row: torch.Tensor, column: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits of the positions, and which of their rows were wanted (None: all)."""
        state = self.tokens
        if len(self.live) < len(self.final) and not hasattr(self.denoiser, "keep"):
            state, row = self.all_tokens(), torch.from_numpy(self.live).to(row.device)[row]
        if self.crop:
            state = state[:, :end]
        answer = self.denoiser(state, row * state.shape[1] + column)
        return answer if isinstance(answer, tuple) else (answer, None)

    def _reveal_best(
        self, slots: torch.Tensor, left: Integers, count: Integers, end: int, block: int, step: int
    ) -> tuple[torch.Tensor, Integers]:
        """Draw for the `left` masked cells, write the best-scored ones, and move what is left to
        the front of `slots`.

        Returns the slots, and how many were written, which a `CommitRule` may raise above `count`.
        """
        cells = self._cells(slots, np.zeros_like(left), left)
        drawn, score = self._reveal(slots, cells, end, block, step, write=False)
        assert score is not None
        scores = torch.full(slots.shape, -torch.inf, dtype=score.dtype, device=slots.device)
        scores.view(-1)[cells] = score
        tokens = torch.zeros_like(slots)
        tokens.view(-1)[cells] = drawn
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        if self.commit is not None:
            # the next pass's size depends on it, so the host must know
            count = np.maximum(count, np.minimum(self.commit.count(scores).cpu().numpy(), left))
        best = self._cells(slots, np.zeros_like(count), count)
        row = best // slots.shape[1]
        cell = row * slots.shape[1] + order.flatten()[best]
        self.tokens[row, slots.flatten()[cell]] = tokens.view(-1)[cell]
        spent = torch.zeros_like(slots, dtype=torch.bool)
        spent.view(-1)[cell] = True
        return slots.gather(1, spent.to(torch.int8).argsort(dim=1, stable=True)), count

    def _finish(self) -> Integers | None:
        """End rows whose answer holds an EOS with nothing masked before it; if any did, the
        indices of the others.
        """
        if not len(self.live) or self.eos is None:
            return None
        column = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        is_eos = torch.isin(self.tokens, self.eos) & (column >= self.answer_start)
        first = torch.where(is_eos.any(1), is_eos.to(torch.uint8).argmax(1), len(column))[:, None]
        masked = self.masked & (self.tokens == self.mask_token_id)
        ended = (is_eos.any(1) & ~(masked & (column < first)).any(1)).cpu().numpy()
        if not ended.any():
            return None
        keep = np.flatnonzero(~ended)
        going = torch.from_numpy(keep).to(self.tokens.device)
        tail = torch.from_numpy(ended).to(going.device)[:, None] & (column > first)
        self.tokens = self.tokens.masked_fill(tail, self.pad_token_id)
        self.final = self.all_tokens()
        self.tokens, self.position, self.masked = (
            self.tokens[going],
            self.position[going],
            self.masked[going],
        )
        self.noise, self.live = SequenceNoise(self.noise.keys[going]), self.live[keep]
        if hasattr(self.denoiser, "keep"):
            self.denoiser.keep(going)
        return keep

    def check(self) -> None:
        """Raise for the first pass whose logits could not be used; the host asks the device
        once.
        """
        if self.troubles and not bool(torch.cat([usable for *_, usable in self.troubles]).all()):
            step, live, row, usable = next(
                trouble for trouble in self.troubles if not bool(trouble[3].all())
            )
            raise InvalidValueError(
                f"the model gave logits with NaN, +inf or nothing left to draw, at pass {step} "
                f"for row {live[int(row[~usable][0])]}"
            )
        self.troubles.clear()
