"""One block of one run: the order in which it is filled, and what each pass does.

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
masked or edited again the queue is sorted anew after each pass, masked columns first, for both
kinds. A row with fewer masks than the fullest ends in columns that no pass reaches.

The host knows all counts (numpy arrays) and makes the indices from them, so that no pass waits for
the device. The letters of shapes are listed in `mdm_schedules/sampling/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from mdm_schedules.models import Pass
from mdm_schedules.sampling.noise import REMASK
from mdm_schedules.sampling.policies import OrderPolicy
from mdm_schedules.sampling.remask import Integers, Truths, check_wanted, remask_key
from mdm_schedules.sampling.trial import check_scores
from mdm_schedules.sampling.where import Where, extent

if TYPE_CHECKING:
    from mdm_schedules.sampling.state import SamplerState

#: passes between two looks for rows that have ended; the end of each block is looked at as well
EOS_EVERY = 8
#: noise steps of the passes after a block's plan, which may be longer in one batch than in another
_AFTER_PLAN = 1 << 31

Report = tuple[torch.Tensor, torch.Tensor] | None


class Cells(NamedTuple):
    """Some cells of the queue: flat indices [R] into [B, W], and their rows and columns."""

    flat: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor


class BlockRun:
    """One block while it is filled.

    Args:
        state: the run.
        start: the block's first column.
        end: the column after its last.
        table_AK: tokens that the plan reveals in each step.
        block: its number, from which its noise comes.
        width: columns from the first mask to the last, in the row where these are most.
        still: steps in which the plan stands still, and passes mask again and fill.
    """

    def __init__(
        self,
        state: SamplerState,
        start: int,
        end: int,
        table_AK: Integers,
        block: int,
        width: int,
        still: range = range(0),
    ) -> None:
        self.state, self.start, self.end = state, start, end
        self.table_BK = table_AK[state.live_B]
        self.left_B = self.table_BK.sum(1)  # masked columns of the block
        self.done_B = np.zeros_like(self.left_B)  # filled ones
        self.block, self.noise_block = block, block << 32
        self.width, self.still = width, still
        self.known_order = isinstance(state.policy, OrderPolicy)
        ours = state.masked_BL[:, start:end]
        first, length = extent(ours)
        self.first_B = state.position_BL[:, start:end].gather(1, first[:, None])
        self.length_B = length[:, None]
        state.memory.clear()

    # ----- The passes -----

    def fill(self) -> Iterator[Report]:
        """Fill the block, and yield after each pass.

        Yields:
            the tokens and what the pass revealed, both [A, L], if a report is wanted; else None.
        """
        state, steps = self.state, self.table_BK.shape[1]
        if not self.left_B.any():
            return
        self.queue_BW = self._sorted_queue(int(self.left_B.max()), 0)
        # of millions of steps, most reveal nothing
        busy = np.union1d(
            np.flatnonzero(self.table_BK.any(0)), np.array(self.still, dtype=np.int64)
        )
        for step in busy.tolist():
            # rows that have ended leave the batch; where tokens are edited, only after the block
            if step and step % EOS_EVERY == 0 and state.revision is None:
                self._keep(state.finish())
            # the plan says how many tokens each row gains, and what is masked again is on top: the
            # pass reveals as many more, while there are masks
            quota_B = np.minimum(self.table_BK[:, step], self.left_B)
            remask_B = self._remask_count(quota_B, step)
            if not (quota_B + remask_B).any():
                continue  # no row reveals anything, so the step costs no pass
            yield self._reported(self._pass, step, quota_B, remask_B)
        # edits may go on for a few passes after the last mask
        active_B = self.done_B > 0
        for extra in range(state.max_post_steps if state.revision else 0):
            if not active_B.any():
                break
            report = self._reported(self._edit_pass, steps + extra, active_B, extra)
            active_B = active_B & self.edited_B
            yield report
        state.finish()

    def _reported(self, run: Callable[..., Any], *arguments: object) -> Report:
        """Run one pass, count it, and tell what it changed if someone wants to see it."""
        state = self.state
        before_AL = state.all_tokens().clone() if state.report else None
        gained_B, drawn_B, part_B = run(*arguments)
        state.count_pass(gained_B, drawn_B, part_B)
        if before_AL is None:
            return None
        now_AL = state.all_tokens().clone()
        return now_AL, now_AL != before_AL

    def _keep(self, keep: Integers | None) -> None:
        """Drop the rows that have ended, if any."""
        if keep is None:
            return
        self.table_BK, self.left_B = self.table_BK[keep], self.left_B[keep]
        self.done_B = self.done_B[keep]
        rows = torch.from_numpy(keep).to(self.queue_BW.device)
        self.queue_BW = self.queue_BW[rows]
        self.first_B, self.length_B = self.first_B[rows], self.length_B[rows]

    def _remask_count(self, quota_B: Integers, step: int) -> Integers:
        """Filled positions of each row that the pass masks again."""
        fraction, still = self.state.remask_fraction, step in self.still
        if fraction is None:
            return np.zeros_like(quota_B)
        room_B = self.left_B - quota_B
        wanted_B = check_wanted(fraction, self.done_B, room_B, still)
        return wanted_B * ((quota_B > 0) | still)

    def _pass(
        self, step: int, quota_B: Integers, remask_B: Integers
    ) -> tuple[Integers, Integers, Truths]:
        """Reveal what the plan asks and a rule adds; then mask again what is to be masked.

        Returns:
            the tokens that each row gained, those it drew, and whether it took part, all [B].
        """
        state, noise_step = self.state, self.noise_block + step
        count_B = quota_B + remask_B
        part_B = count_B > 0
        # what is masked again is chosen before the pass fills more, and masked after it, so that
        # the model still sees it
        forgotten = self._chosen_filled(remask_B, noise_step) if remask_B.any() else None

        # 1. What is read: of a known order the next columns, else all masked ones; of rows that sit
        #    this pass out nothing. And the filled ones, where they are looked at again.
        room_B = self.left_B - quota_B
        if self.known_order:
            # tokens may be revoked, and as many more are then filled
            asked_B = count_B + (np.minimum(self.done_B, room_B) if state.revokes else 0)
            first_B = np.zeros_like(count_B) if state.changes_tokens else self.done_B
        else:
            asked_B, first_B = self.left_B, np.zeros_like(count_B)
        masked = self._cells(first_B, np.where(part_B, asked_B, 0))
        filled = None
        if state.revision is not None:
            filled = self._cells(self.left_B, np.where(part_B, self.done_B, 0))
        state.denoiser.at(Pass(self.start, self.end, step, state.tokens_BL.shape[1], self.block))
        logits_MV, index_R = state.ask(masked, filled, self.end)
        masked_index, filled_index = (
            (index_R[: len(masked.row)], index_R[len(masked.row) :])
            if filled is not None and index_R is not None
            else (index_R, index_R)
        )

        # 2. A token for each, and a score where the order is not known.
        where = self._where(masked, step) if state.draw.looks_at_places else None
        drawn_R, score_R = state.draw_at(logits_MV, masked_index, masked, noise_step, where)
        order_BW, drawn_BW = self._ranked(masked, drawn_R, score_R, first_B)

        # 3. What a rule adds, and what is revoked: the one place where the host waits.
        asks: list[torch.Tensor] = []
        if state.commit is not None:
            assert score_R is not None
            order_BW, sure = self._selected(masked, score_R, order_BW, step)
            asks.append(sure)
        edits = None
        if filled is not None and state.revision is not None:
            edits = state.revision.look(state, logits_MV, filled_index, filled, noise_step)
            if state.revokes:
                doubts_BW, doubtful = self._doubts(filled, edits.doubt, room_B)
                asks.append(doubtful)
        if asks:
            told = torch.stack(asks).cpu().numpy()
            revoked_B = told[-1] * part_B if state.revokes else np.zeros_like(count_B)
            remask_B = remask_B + revoked_B
            count_B = count_B + revoked_B
            if state.commit is not None:
                count_B = np.maximum(count_B, np.minimum(told[0], np.where(part_B, asked_B, 0)))
            if state.revokes:
                forgotten = self._picked(doubts_BW, revoked_B)

        # 4. The best are written, and edits with them; then what is masked again goes.
        best = self._flat(np.zeros_like(count_B), count_B)
        row_R = best // self.queue_BW.shape[1]
        cell_R = row_R * self.queue_BW.shape[1] + order_BW.flatten()[best]
        column_R, tokens_R = self.queue_BW.flatten()[cell_R], drawn_BW.view(-1)[cell_R]
        state.write(row_R, column_R, tokens_R)
        if state.remembers_confidence:
            place_BW = self._laid_out(masked, torch.arange(len(masked.flat)).to(cell_R.device), 0)
            place_R = place_BW.view(-1)[cell_R]
            index_R = place_R if masked_index is None else masked_index[place_R]
            state.note_confidence(logits_MV, index_R, row_R, column_R)
        if edits is not None and filled is not None:
            state.rewrite(filled, edits)
        if forgotten is not None:
            state.tokens_BL[forgotten] = state.mask_token_id

        # 5. Counts and queue for the next pass.
        gained_B = count_B - remask_B
        self.done_B, self.left_B = self.done_B + gained_B, self.left_B - gained_B
        self._move(cell_R, part_B, noise_step)
        return gained_B, count_B, part_B

    def _edit_pass(
        self, step: int, active_B: Truths, extra: int
    ) -> tuple[Integers, Integers, Truths]:
        """Look at filled positions only; rows without an edit are finished with the block."""
        state = self.state
        assert state.revision is not None
        filled = self._cells(np.zeros_like(self.done_B), np.where(active_B, self.done_B, 0))
        state.denoiser.at(Pass(self.start, self.end, step, state.tokens_BL.shape[1], self.block))
        logits_MV, index_R = state.ask(filled, None, self.end)
        noise_step = self.noise_block + _AFTER_PLAN + extra
        edits = state.revision.look(state, logits_MV, index_R, filled, noise_step)
        state.rewrite(filled, edits)
        count_B = self._per_row(filled, edits.edited).cpu().numpy()  # here the host waits
        self.edited_B = count_B > 0
        return np.zeros_like(count_B), count_B, active_B

    # ----- The queue -----

    def _sorted_queue(self, width: int, step: int) -> torch.Tensor:
        """The block's columns [B, W]: masked ones, next first; then filled ones; then the rest."""
        state, span = self.state, slice(self.start, self.end)
        ours = state.masked_BL[:, span]
        # the smallest key comes first, and of equal ones the left one
        key = torch.zeros(ours.shape, dtype=torch.float64, device=ours.device)
        filled = state.tokens_BL[:, span] != state.mask_token_id
        if isinstance(state.policy, OrderPolicy):
            where = state.where(self, self.rows, state.position_BL[:, span], step)
            score = state.policy.score_at(where, state.noise)
            key = key - state.checked_scores(score, ours & ~filled)
        key = key.masked_fill(filled, torch.finfo(key.dtype).max)
        key = key.masked_fill(~ours, torch.inf)  # padding, and what the prompt gives
        return key.argsort(dim=1, stable=True)[:, :width] + self.start

    @property
    def rows(self) -> torch.Tensor:
        """LongTensor [B, 1]."""
        tokens = self.state.tokens_BL
        return torch.arange(len(tokens), device=tokens.device)[:, None]

    def _flat(self, first_B: Integers, count_B: Integers) -> torch.Tensor:
        """Flat indices [R] into [B, W] of `count` cells of each row, beginning at its `first`."""
        column = np.arange(self.queue_BW.shape[1])
        inside = (column >= first_B[:, None]) & (column < (first_B + count_B)[:, None])
        # found on the host, where the counts are: torch.nonzero would wait for the device
        return torch.from_numpy(np.flatnonzero(inside)).to(self.queue_BW.device, non_blocking=True)

    def _cells(self, first_B: Integers, count_B: Integers) -> Cells:
        flat = self._flat(first_B, count_B)
        return Cells(flat, flat // self.queue_BW.shape[1], self.queue_BW.flatten()[flat])

    def _where(self, cells: Cells, step: int) -> Where:
        """Where some cells lie, as a list [R]."""
        state = self.state
        position_R = state.position_BL[cells.row, cells.column]
        return state.where(self, cells.row, position_R, step)

    def _laid_out(self, cells: Cells, values_R: torch.Tensor, nothing: float) -> torch.Tensor:
        """Values of some cells in the shape of the queue, with `nothing` in the others."""
        values_BW = torch.full(
            self.queue_BW.shape, nothing, dtype=values_R.dtype, device=values_R.device
        )
        values_BW.view(-1)[cells.flat] = values_R
        return values_BW

    def _per_row(self, cells: Cells, values_R: torch.Tensor) -> torch.Tensor:
        """How many [B] of a bool [R] are True."""
        count_B = torch.zeros(len(self.queue_BW), dtype=torch.long, device=values_R.device)
        return count_B.index_add_(0, cells.row, values_R.long())

    def _move(self, cell_R: torch.Tensor, part_B: Truths, noise_step: int) -> None:
        """Bring the queue in order after a pass that wrote these cells."""
        if self.state.changes_tokens:
            masks_again = self.state.remask_fraction is not None or self.state.revokes
            noise = noise_step + 1 if masks_again else 0
            fresh_BW = self._sorted_queue(self.queue_BW.shape[1], noise)
            # a row that sat this pass out keeps its order: alone, it would not have had the pass,
            # and its tokens must not depend on the batch
            moved_B = torch.from_numpy(part_B).to(self.queue_BW.device)
            self.queue_BW = torch.where(moved_B[:, None], fresh_BW, self.queue_BW)
        elif not self.known_order:
            # what was written moves to the back, while the others keep their order from the left
            written_BW = torch.zeros_like(self.queue_BW, dtype=torch.bool)
            written_BW.view(-1)[cell_R] = True
            back_BW = written_BW.to(torch.int8).argsort(dim=1, stable=True)
            self.queue_BW = self.queue_BW.gather(1, back_BW)

    # ----- Which cells -----

    def _ranked(
        self,
        cells: Cells,
        drawn_R: torch.Tensor,
        score_R: torch.Tensor | None,
        first_B: Integers,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The cells of each row, the best first, and the tokens drawn for them, both [B, W]."""
        drawn_BW = self._laid_out(cells, drawn_R, 0)
        if score_R is not None:
            score_BW = self._laid_out(cells, score_R, -torch.inf)
            return score_BW.argsort(dim=1, descending=True, stable=True), drawn_BW
        # a known order: the queue's own, from the next one on
        place = torch.arange(self.queue_BW.shape[1], device=drawn_R.device)
        first = torch.from_numpy(first_B).to(drawn_R.device)[:, None]
        return (place + first).clamp(max=len(place) - 1), drawn_BW

    def _selected(
        self, cells: Cells, score_R: torch.Tensor, order_BW: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The order with what the commit rule takes first, and how many [B] it takes."""
        state = self.state
        assert state.commit is not None
        score_BW = self._laid_out(cells, score_R, -torch.inf)
        position_BW = state.position_BL.gather(1, self.queue_BW)
        where = state.where(self, self.rows, position_BW, step)
        taken_BW = state.commit.select(score_BW, where)
        check_scores(taken_BW, state.commit, score_BW.shape, torch.bool)
        taken_BW = taken_BW & (score_BW > -torch.inf)
        ahead = (~taken_BW).gather(1, order_BW).to(torch.int8).argsort(dim=1, stable=True)
        return order_BW.gather(1, ahead), taken_BW.sum(1)

    def _doubts(
        self, filled: Cells, doubt_R: torch.Tensor, room_B: Integers
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Filled cells [B, W], the most doubtful first, and how many [B] are to be revoked.

        No more than the steps left can fill, beside what they are planned to fill.
        """
        doubt_BW = self._laid_out(filled, doubt_R, torch.inf)
        room = torch.from_numpy(room_B).to(doubt_R.device)
        doubtful_B = torch.minimum((doubt_BW < torch.inf).sum(1), room)
        return doubt_BW.argsort(dim=1, stable=True), doubtful_B

    def _picked(self, order_BW: torch.Tensor, count_B: Integers) -> tuple[torch.Tensor, ...]:
        """Rows and columns [R] of the first `count` cells of each row in the order."""
        flat = self._flat(np.zeros_like(count_B), count_B)
        row_R = flat // self.queue_BW.shape[1]
        return row_R, self.queue_BW[row_R, order_BW.flatten()[flat]]

    def _chosen_filled(self, count_B: Integers, noise_step: int) -> tuple[torch.Tensor, ...]:
        """Rows and columns [R] of filled positions that are masked again."""
        state = self.state
        place = torch.arange(self.queue_BW.shape[1], device=self.queue_BW.device)
        # the queue holds `left` masked columns, then `done` filled ones
        low, high = (
            torch.from_numpy(bound).to(place.device)[:, None]
            for bound in (self.left_B, self.left_B + self.done_B)
        )
        position_BW = state.position_BL.gather(1, self.queue_BW)
        uniform_BW = state.noise.uniform(REMASK, noise_step, self.rows, position_BW)
        confidence = state.confidence_BL
        if confidence is not None:
            confidence = confidence.gather(1, self.queue_BW)
        key_BW = remask_key(uniform_BW, confidence)
        key_BW = key_BW.masked_fill((place < low) | (place >= high), torch.inf)
        return self._picked(key_BW.argsort(dim=1, stable=True), count_B)
