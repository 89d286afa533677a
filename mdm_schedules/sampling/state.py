"""The state of one run of the sampler, and what a pass does to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models import Denoiser, Pass
from mdm_schedules.sampling.commits import CommitRule
from mdm_schedules.sampling.draw import TokenDraw, check_logits
from mdm_schedules.sampling.noise import REMASK, TOKEN, SequenceNoise
from mdm_schedules.sampling.output import PADDING
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy

EOS_EVERY = (
    8  # passes between two looks for finished rows; also looked for at the end of each block
)

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class SamplerState:
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
    remask_fraction: float
    eos: torch.Tensor | None
    pad_token_id: int
    answer_start: int
    crop: bool
    report: bool
    masked: torch.Tensor  # bool [b, L], what is to be filled
    real: torch.Tensor  # bool [B, L], False on padding
    nfe: int = 0
    revealed: list[Integers] = field(default_factory=list)  # per pass, [B]
    drawn: list[Integers] = field(default_factory=list)  # likewise
    unusable: list[tuple[int, Integers, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.final = self.tokens  # [B, L]; rows that have ended are written into it
        self.live: Integers = np.arange(len(self.tokens))
        # [B, L] of the whole batch, and the rows of it that go on (None: all)
        self.revealed_in = -(~self.real).int()
        self._rows: torch.Tensor | None = None

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
                np.floor(self.remask_fraction * done + 0.5).astype(np.int64), left - quota
            ) * (quota > 0)
            count = quota + again
            if not count.any():
                continue
            self.denoiser.at(Pass(start, end, step, self.tokens.shape[1]))
            before = self.all_tokens().clone() if self.report else None
            forgotten = self._choose(slots, left, done, again, block, step) if again.any() else None
            if isinstance(self.policy, OrderPolicy):
                cells = self._cells(
                    slots, np.zeros_like(done) if self.remask_fraction else done, count
                )
                self._reveal(slots, cells, end, block, step)
            else:
                slots, count = self._reveal_best(
                    slots, np.where(count > 0, left, 0), count, end, block, step
                )
            if forgotten is not None:
                self.tokens[forgotten] = self.mask_token_id
            self.nfe += 1
            done, left = done + count - again, left - count + again
            if self.remask_fraction:
                # a row that sits this pass out keeps its order, as it would alone, where the pass
                # is not run
                fresh = self._slots(start, end, slots.shape[1], (block << 32) + step + 1)
                slots = torch.where(
                    torch.from_numpy(count > 0).to(slots.device)[:, None], fresh, slots
                )
            for told, number in ((self.revealed, count - again), (self.drawn, count)):
                row = np.zeros(len(self.final), dtype=np.int64)
                row[self.live] = number
                told.append(row)
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
        self.unusable.append((self.nfe + 1, self.live, row, usable))
        if write:
            self._write(row, column, drawn)
        return drawn, score

    def _write(self, row: torch.Tensor, column: torch.Tensor, drawn: torch.Tensor) -> None:
        self.tokens[row, column] = drawn
        self.revealed_in[row if self._rows is None else self._rows[row], column] = self.nfe + 1

    def _ask(
        self, row: torch.Tensor, column: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits of the positions, and which of their rows were wanted (None: all)."""
        state = self.tokens
        if len(self.live) < len(self.final) and self.denoiser.whole_batch:
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
        self._write(row, slots.flatten()[cell], tokens.view(-1)[cell])
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
        every = slice(None) if self._rows is None else self._rows
        self.revealed_in[every] = self.revealed_in[every].masked_fill(tail, PADDING)
        self._rows = going if self._rows is None else self._rows[going]
        self.tokens, self.position, self.masked = (
            self.tokens[going],
            self.position[going],
            self.masked[going],
        )
        self.noise, self.live = SequenceNoise(self.noise.keys[going]), self.live[keep]
        if not self.denoiser.whole_batch:
            self.denoiser.keep(going)
        return keep

    def check(self) -> None:
        """Raise for the first pass whose logits could not be used; the host asks the device
        once.
        """
        if self.unusable and not bool(torch.cat([usable for *_, usable in self.unusable]).all()):
            step, live, row, usable = next(
                entry for entry in self.unusable if not bool(entry[3].all())
            )
            raise InvalidValueError(
                f"the model gave logits with NaN, +inf or nothing left to draw, at pass {step} "
                f"for row {live[int(row[~usable][0])]}"
            )
        self.unusable.clear()
