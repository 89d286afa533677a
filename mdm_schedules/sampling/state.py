"""The state of one run of the sampler, and what a pass does to it.

What comes next stands in one tensor, the queue [B, W]: for each row the columns of the block, the
next one first. Take a block of six columns, of which the prompt gives two:

    column    20    21    22    23    24    25
    token     the   [M]   [M]   cat   [M]   [M]

Two kinds of policy use the queue in two ways. After a pass that filled 21 and 24 it holds

    policy        before the pass     after the pass
    known order   24  21  25  22      24  21 | 25  22   `done` columns are filled, then come masks
    by the model  21  22  24  25      22  25 | 21  24   `left` columns are masked, then come filled

A known order is sorted once, and each pass takes the next columns. A policy that looks at the model
wants logits of all masked columns, so they stay together at the front. Where filled tokens are
masked again (`remask_fraction`) the queue is sorted anew after each pass, masked columns first, for
both kinds. A row with fewer masks than the fullest ends in columns that no pass reaches.

The host knows all counts (numpy arrays) and makes the indices from them, so that no pass waits for
the device. The letters of shapes are listed in `mdm_schedules/sampling/__init__.py`.
"""

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

#: passes between two looks for rows that have ended; the end of each block is looked at as well
EOS_EVERY = 8

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class SamplerState:
    """One call of `sample`: what it works with, the rows that go on, and what was spent.

    Attributes:
        tokens_BL: LongTensor, changed in place.
        position_BL: LongTensor, counted from the sequence's own first token.
        masked_BL: bool, what the run is to fill.
        real_AL: bool, False on padding.
        report: whether someone wants to see the tokens after each pass.
        nfe: forward passes so far.
        revealed: for each pass the tokens that each row [A] gained.
        drawn: for each pass the tokens that were drawn jointly, those it masks again among them.
        revealed_in_AL: the pass that revealed each token; see `GenerationOutput`.
        unusable: for each pass since the last `check` its number, its rows, and what it could read.
    """

    denoiser: Denoiser
    tokens_BL: torch.Tensor
    policy: ConfidencePolicy | OrderPolicy
    draw: TokenDraw
    noise: SequenceNoise
    position_BL: torch.Tensor
    mask_token_id: int
    commit: CommitRule | None
    remask_fraction: float
    eos: torch.Tensor | None
    pad_token_id: int
    answer_start: int
    crop: bool
    report: bool
    masked_BL: torch.Tensor
    real_AL: torch.Tensor
    nfe: int = 0
    revealed: list[Integers] = field(default_factory=list)
    drawn: list[Integers] = field(default_factory=list)
    unusable: list[tuple[int, Integers, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # rows that have ended are written here; until the first one does, these are the same tensor
        self.final_AL = self.tokens_BL
        # which of the A rows go on, known on the host
        self.live_B: Integers = np.arange(len(self.tokens_BL))
        # and on the device; None while all do
        self.row_in_batch_B: torch.Tensor | None = None
        self.revealed_in_AL = -(~self.real_AL).int()

    def all_tokens(self) -> torch.Tensor:
        """The whole batch [A, L] as it is now; a copy if a row has left."""
        if len(self.live_B) == len(self.final_AL):
            return self.tokens_BL
        live = torch.from_numpy(self.live_B).to(self.final_AL.device)
        return self.final_AL.index_copy(0, live, self.tokens_BL)

    # ----- One block ------------------------------------------------------------------------------

    def fill(
        self, start: int, end: int, table_AK: Integers, block: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor] | None]:
        """Fill one block, and yield after each pass.

        Args:
            start: the block's first column.
            end: the column after its last.
            table_AK: tokens that the plan reveals in each step.
            block: its number, from which its noise comes.

        Yields:
            the tokens and what the pass revealed, both [A, L], if a report is wanted; else None.
        """
        table_BK = table_AK[self.live_B]
        left_B = table_BK.sum(1)  # masked columns of the block
        done_B = np.zeros_like(left_B)  # filled ones
        if not left_B.any():
            return
        queue_BW = self._sorted_queue(start, end, int(left_B.max()))
        for step in range(table_BK.shape[1]):
            # 1. Rows that have ended leave the batch.
            if step and step % EOS_EVERY == 0 and (keep := self._finish()) is not None:
                table_BK, left_B, done_B = table_BK[keep], left_B[keep], done_B[keep]
                queue_BW = queue_BW[torch.from_numpy(keep)]

            # 2. The plan says how many tokens each row gains. What is masked again is on top: the
            #    pass reveals as many more, while there are masks.
            quota_B = np.minimum(table_BK[:, step], left_B)
            wanted_B = np.floor(self.remask_fraction * done_B + 0.5).astype(np.int64)
            remask_count_B = np.minimum(wanted_B, left_B - quota_B) * (quota_B > 0)
            count_B = quota_B + remask_count_B
            if not count_B.any():
                continue  # no row reveals anything, so the step costs no pass

            # 3. What is masked again is chosen before the pass fills more, and masked after it, so
            #    that the model still sees it.
            noise_step = (block << 32) + step
            before_AL = self.all_tokens().clone() if self.report else None
            forgotten = None
            if remask_count_B.any():
                forgotten = self._choose_filled(
                    queue_BW, left_B, done_B, remask_count_B, noise_step
                )

            # 4. The pass: logits, one draw for each position, and the tokens are written.
            self.denoiser.at(Pass(start, end, step, self.tokens_BL.shape[1], block))
            if isinstance(self.policy, OrderPolicy):
                first_B = np.zeros_like(done_B) if self.remask_fraction else done_B
                self._reveal_next(queue_BW, first_B, count_B, end, noise_step)
            else:
                # rows that sit this pass out ask for nothing
                asked_B = np.where(count_B > 0, left_B, 0)
                queue_BW, count_B = self._reveal_best(queue_BW, asked_B, count_B, end, noise_step)
            if forgotten is not None:
                self.tokens_BL[forgotten] = self.mask_token_id
            self.nfe += 1

            # 5. Counts and queue for the next pass.
            gained_B = count_B - remask_count_B
            done_B, left_B = done_B + gained_B, left_B - gained_B
            if self.remask_fraction:
                fresh_BW = self._sorted_queue(start, end, queue_BW.shape[1], noise_step + 1)
                # a row that sat this pass out keeps its order: alone, it would not have had the
                # pass, and its tokens must not depend on the batch
                moved_B = torch.from_numpy(count_B > 0).to(queue_BW.device)
                queue_BW = torch.where(moved_B[:, None], fresh_BW, queue_BW)

            # 6. What callers hear of it.
            for record, number_B in ((self.revealed, gained_B), (self.drawn, count_B)):
                number_A = np.zeros(len(self.final_AL), dtype=np.int64)
                number_A[self.live_B] = number_B
                record.append(number_A)
            if before_AL is None:
                yield None
            else:
                now_AL = self.all_tokens().clone()
                yield now_AL, now_AL != before_AL
        self._finish()

    # ----- The queue ------------------------------------------------------------------------------

    def _sorted_queue(self, start: int, end: int, width: int, step: int = 0) -> torch.Tensor:
        """The block's columns [B, W]: masked ones, next first; then filled ones; then the rest."""
        row = torch.arange(len(self.tokens_BL), device=self.tokens_BL.device)[:, None]
        ours = self.masked_BL[:, start:end]
        # the smallest key comes first, and of equal ones the left one
        key = torch.zeros(ours.shape, dtype=torch.float64, device=self.tokens_BL.device)
        if isinstance(self.policy, OrderPolicy):
            key = key - self.policy.score(row, self.position_BL[:, start:end], self.noise, step)
        filled = self.tokens_BL[:, start:end] != self.mask_token_id
        key = key.masked_fill(filled, torch.finfo(key.dtype).max)
        key = key.masked_fill(~ours, torch.inf)  # padding, and what the prompt gives
        return key.argsort(dim=1, stable=True)[:, :width] + start

    def _flat_index(
        self, queue_BW: torch.Tensor, first_B: Integers, count_B: Integers
    ) -> torch.Tensor:
        """Flat indices [R] into [B, W] of `count` cells of each row, beginning at its `first`."""
        column = np.arange(queue_BW.shape[1])
        inside = (column >= first_B[:, None]) & (column < (first_B + count_B)[:, None])
        # found on the host, where the counts are: torch.nonzero would wait for the device
        return torch.from_numpy(np.flatnonzero(inside)).to(queue_BW.device, non_blocking=True)

    def _choose_filled(
        self,
        queue_BW: torch.Tensor,
        left_B: Integers,
        done_B: Integers,
        remask_count_B: Integers,
        noise_step: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns [R] of filled positions, chosen uniformly at random by row."""
        row = torch.arange(len(queue_BW), device=queue_BW.device)[:, None]
        place = torch.arange(queue_BW.shape[1], device=queue_BW.device)
        # the queue holds `left` masked columns, then `done` filled ones
        low, high = (
            torch.from_numpy(bound).to(queue_BW.device)[:, None]
            for bound in (left_B, left_B + done_B)
        )
        # a random order of the filled ones, of which the first are taken
        key = self.noise.uniform(REMASK, noise_step, row, self.position_BL.gather(1, queue_BW))
        key = key.masked_fill((place < low) | (place >= high), torch.inf)
        order_BW = key.argsort(dim=1, stable=True)
        flat_index_R = self._flat_index(queue_BW, np.zeros_like(remask_count_B), remask_count_B)
        row_R = flat_index_R // queue_BW.shape[1]
        return row_R, queue_BW[row_R, order_BW.flatten()[flat_index_R]]

    # ----- One pass -------------------------------------------------------------------------------

    def _reveal_next(
        self,
        queue_BW: torch.Tensor,
        first_B: Integers,
        count_B: Integers,
        end: int,
        noise_step: int,
    ) -> None:
        """Known order: draw for the next `count` columns of each row, and write them."""
        # no other position needs logits
        flat_index_R = self._flat_index(queue_BW, first_B, count_B)
        row_R, column_R = flat_index_R // queue_BW.shape[1], queue_BW.flatten()[flat_index_R]
        drawn_R, _ = self._draw_at(row_R, column_R, end, noise_step)
        self._write(row_R, column_R, drawn_R)

    def _reveal_best(
        self,
        queue_BW: torch.Tensor,
        asked_B: Integers,
        count_B: Integers,
        end: int,
        noise_step: int,
    ) -> tuple[torch.Tensor, Integers]:
        """By the model: draw for all masked columns, and write those with the best scores.

        Returns:
            the queue with what is still masked at the front, and how many tokens [B] were written,
            which a `CommitRule` may raise above `count`.
        """
        # a draw and a score for each masked column
        width = queue_BW.shape[1]
        flat_index_R = self._flat_index(queue_BW, np.zeros_like(asked_B), asked_B)
        row_R, column_R = flat_index_R // width, queue_BW.flatten()[flat_index_R]
        drawn_R, score_R = self._draw_at(row_R, column_R, end, noise_step)
        assert score_R is not None

        # laid out like the queue, and ranked; cells that hold no mask come last
        score_BW = torch.full(
            queue_BW.shape, -torch.inf, dtype=score_R.dtype, device=queue_BW.device
        )
        score_BW.view(-1)[flat_index_R] = score_R
        drawn_BW = torch.zeros_like(queue_BW)
        drawn_BW.view(-1)[flat_index_R] = drawn_R
        score_BW, order_BW = score_BW.sort(dim=1, descending=True, stable=True)

        # a commit rule may take more than the plan
        if self.commit is not None:
            # the next pass's size depends on it, so here the host waits for the device
            sure_B = self.commit.count(score_BW).cpu().numpy()
            count_B = np.maximum(count_B, np.minimum(sure_B, asked_B))

        # the best are written
        best_R = self._flat_index(queue_BW, np.zeros_like(count_B), count_B)
        row_R = best_R // width
        flat_index_R = row_R * width + order_BW.flatten()[best_R]
        column_R = queue_BW.flatten()[flat_index_R]
        self._write(row_R, column_R, drawn_BW.view(-1)[flat_index_R])

        # and move to the back of the queue, while the others keep their order from the left
        written_BW = torch.zeros_like(queue_BW, dtype=torch.bool)
        written_BW.view(-1)[flat_index_R] = True
        order_BW = written_BW.to(torch.int8).argsort(dim=1, stable=True)
        return queue_BW.gather(1, order_BW), count_B

    def _write(self, row_R: torch.Tensor, column_R: torch.Tensor, drawn_R: torch.Tensor) -> None:
        """Put the drawn tokens in, and note the pass, whose number is not counted up yet."""
        self.tokens_BL[row_R, column_R] = drawn_R
        row_in_batch_R = row_R if self.row_in_batch_B is None else self.row_in_batch_B[row_R]
        self.revealed_in_AL[row_in_batch_R, column_R] = self.nfe + 1

    def _draw_at(
        self, row_R: torch.Tensor, column_R: torch.Tensor, end: int, noise_step: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A token and a score [R] for each position; no score where the order is known."""
        logits_MV, index_R = self._ask(row_R, column_R, end)
        # the model's first answer shows whether it gives what was asked for
        if not self.nfe:
            check_logits(logits_MV, index_R, len(row_R))
        # noise by step, row and position, for the positions that are drawn
        uniform_R = None
        if self.draw.options.temperature > 0:
            position_R = self.position_BL[row_R, column_R]
            uniform_R = self.noise.uniform(TOKEN, noise_step, row_R, position_R)
        drawn_R, score_R, usable_R = self.draw(
            logits_MV, index_R, uniform_R, lambda i, j: self.tokens_BL[row_R[i:j]]
        )
        # looked at after the block, so that the host does not wait now
        self.unusable.append((self.nfe + 1, self.live_B, row_R, usable_R))
        return drawn_R, score_R

    def _ask(
        self, row_R: torch.Tensor, column_R: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [M, V] of the positions, and which of them are wanted [R] (None: all)."""
        tokens = self.tokens_BL
        # a model that cannot drop rows sees the ended ones too, as they ended
        if len(self.live_B) < len(self.final_AL) and self.denoiser.whole_batch:
            tokens = self.all_tokens()
            row_R = torch.from_numpy(self.live_B).to(row_R.device)[row_R]
        # a model that attends by blocks need not see what comes after this one
        if self.crop:
            tokens = tokens[:, :end]
        answer = self.denoiser(tokens, row_R * tokens.shape[1] + column_R)
        return answer if isinstance(answer, tuple) else (answer, None)

    # ----- Ends -----------------------------------------------------------------------------------

    def _finish(self) -> Integers | None:
        """End rows whose answer holds an EOS with no mask before it.

        Returns:
            the indices of the rows that go on, if any row ended; else None.
        """
        if not len(self.live_B) or self.eos is None:
            return None
        # the first end of sequence in each answer; the prompt's own end nothing
        column = torch.arange(self.tokens_BL.shape[1], device=self.tokens_BL.device)
        eos_BL = torch.isin(self.tokens_BL, self.eos) & (column >= self.answer_start)
        found_B = eos_BL.any(1)
        first = torch.where(found_B, eos_BL.to(torch.uint8).argmax(1), len(column))[:, None]
        # it ends the row once all before it is filled; here the host waits for the device
        masked_BL = self.masked_BL & (self.tokens_BL == self.mask_token_id)
        ended_B = (found_B & ~(masked_BL & (column < first)).any(1)).cpu().numpy()
        if not ended_B.any():
            return None
        # what follows the end is padding, and the whole row is put aside
        keep = np.flatnonzero(~ended_B)
        going = torch.from_numpy(keep).to(self.tokens_BL.device)
        tail_BL = torch.from_numpy(ended_B).to(going.device)[:, None] & (column > first)
        self.tokens_BL = self.tokens_BL.masked_fill(tail_BL, self.pad_token_id)
        self.final_AL = self.all_tokens()
        every = slice(None) if self.row_in_batch_B is None else self.row_in_batch_B
        self.revealed_in_AL[every] = self.revealed_in_AL[every].masked_fill(tail_BL, PADDING)
        # all that has a row for each sequence shrinks
        self.row_in_batch_B = going if self.row_in_batch_B is None else self.row_in_batch_B[going]
        self.tokens_BL = self.tokens_BL[going]
        self.position_BL, self.masked_BL = self.position_BL[going], self.masked_BL[going]
        self.noise, self.live_B = SequenceNoise(self.noise.keys[going]), self.live_B[keep]
        if not self.denoiser.whole_batch:
            self.denoiser.keep(going)
        return keep

    def check(self) -> None:
        """Raise for the first pass whose logits could not be used; asks the device once."""
        if self.unusable and not bool(torch.cat([usable for *_, usable in self.unusable]).all()):
            # only now, where something is wrong, one question for each pass
            number, live_B, row_R, usable_R = next(
                entry for entry in self.unusable if not bool(entry[3].all())
            )
            raise InvalidValueError(
                f"the model gave logits with NaN, +inf or nothing left to draw, at pass {number} "
                f"for row {live_B[int(row_R[~usable_R][0])]}"
            )
        self.unusable.clear()
