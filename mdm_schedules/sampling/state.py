"""The state of one run of the sampler: the sequences, the rows that go on, and what was spent.

`block.py` says what a pass does to it. The letters of shapes are listed in
`mdm_schedules/sampling/__init__.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models import Denoiser
from mdm_schedules.sampling.commits import CommitRule
from mdm_schedules.sampling.draw import TokenDraw, check_logits
from mdm_schedules.sampling.noise import TOKEN, SequenceNoise
from mdm_schedules.sampling.output import PADDING
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy
from mdm_schedules.sampling.remask import Integers, RemaskFraction, Truths
from mdm_schedules.sampling.revise import Edits, Revision
from mdm_schedules.sampling.trial import check_scores
from mdm_schedules.sampling.where import Memory, Where

if TYPE_CHECKING:
    from mdm_schedules.sampling.block import BlockRun, Cells


@dataclass
class SamplerState:
    """One call of `sample`: what it works with, the rows that go on, and what was spent.

    Attributes:
        tokens_BL: LongTensor, changed in place.
        position_BL: LongTensor, counted from the sequence's own first token.
        masked_BL: bool, what the run is to fill.
        real_AL: bool, False on padding.
        remask_fraction: how much each pass masks again; None masks nothing.
        remembers_confidence: keep the probability of each written token, for the choice of those
            that are masked again.
        revision: looks at filled positions; None for no look.
        max_post_steps: passes that may follow a block's last mask, for edits.
        report: whether someone wants to see the tokens after each pass.
        nfe: forward passes so far.
        revealed: for each pass the tokens that each row [A] gained.
        drawn: for each pass the tokens that were drawn jointly, those it masks again among them.
        passes_A: passes in which each row took part.
        edited_A: tokens of each row that were replaced by others.
        revealed_in_AL: the pass that revealed each token; see `GenerationOutput`.
        unusable: for each draw since the last `check` its pass, its rows, which logits it could
            read, and which scores are NaN.
    """

    denoiser: Denoiser
    tokens_BL: torch.Tensor
    policy: ConfidencePolicy | OrderPolicy
    draw: TokenDraw
    noise: SequenceNoise
    position_BL: torch.Tensor
    mask_token_id: int
    commit: CommitRule | None
    remask_fraction: RemaskFraction | None
    remembers_confidence: bool
    revision: Revision | None
    max_post_steps: int
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
    unusable: list[tuple[int, Integers, torch.Tensor, torch.Tensor, torch.Tensor | None]] = field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        # rows that have ended are written here; until the first one does, these are the same tensor
        self.final_AL = self.tokens_BL
        # which of the A rows go on, known on the host
        self.live_B: Integers = np.arange(len(self.tokens_BL))
        # and on the device; None while all do
        self.row_in_batch_B: torch.Tensor | None = None
        self.revealed_in_AL = -(~self.real_AL).int()
        self.prompt_BL = self.real_AL & ~self.masked_BL
        self.memory = Memory()
        self.passes_A: Integers = np.zeros_like(self.live_B)
        self.edited_A = torch.zeros(
            len(self.live_B), dtype=torch.long, device=self.tokens_BL.device
        )
        self.confidence_BL: torch.Tensor | None = None
        if self.remembers_confidence:
            self.confidence_BL = torch.zeros(
                self.tokens_BL.shape, dtype=torch.float64, device=self.tokens_BL.device
            )

    @property
    def revokes(self) -> bool:
        """Whether filled positions may be masked again because of a look at them."""
        return self.revision is not None and self.revision.revoke_threshold is not None

    @property
    def changes_tokens(self) -> bool:
        """Whether filled positions may be masked again, or edited."""
        return self.remask_fraction is not None or self.revision is not None

    def all_tokens(self) -> torch.Tensor:
        """The whole batch [A, L] as it is now; a copy if a row has left."""
        if len(self.live_B) == len(self.final_AL):
            return self.tokens_BL
        live = torch.from_numpy(self.live_B).to(self.final_AL.device)
        return self.final_AL.index_copy(0, live, self.tokens_BL)

    def where(self, block: BlockRun, row: torch.Tensor, position: torch.Tensor, step: int) -> Where:
        """Positions in the block, as a list [R] or with a row for each sequence [B, W]."""
        first, length = block.first_B, block.length_B
        if row.ndim == 1:
            first, length = first[row, 0], length[row, 0]
        return Where(
            row,
            position,
            first,
            length,
            step,
            block.width,
            self.tokens_BL,
            self.prompt_BL,
            self.memory,
        )

    # ----- Asking the model -----------------------------------------------------------------------

    def ask(
        self, cells: Cells, more: Cells | None, end: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [M, V] of the cells, then of more, and which are wanted [R] (None: all)."""
        row_R, column_R = cells.row, cells.column
        if more is not None:
            row_R, column_R = torch.cat([row_R, more.row]), torch.cat([column_R, more.column])
        tokens = self.tokens_BL
        wanted = len(row_R)
        # a model that cannot drop rows sees the ended ones too, as they ended
        if len(self.live_B) < len(self.final_AL) and self.denoiser.whole_batch:
            tokens = self.all_tokens()
            row_R = torch.from_numpy(self.live_B).to(row_R.device)[row_R]
        # a model that attends by blocks need not see what comes after this one
        if self.crop:
            tokens = tokens[:, :end]
        answer = self.denoiser(tokens, row_R * tokens.shape[1] + column_R)
        logits_MV, index_R = answer if isinstance(answer, tuple) else (answer, None)
        # the model's first answer shows whether it gives what was asked for
        if not self.nfe:
            check_logits(logits_MV, index_R, wanted)
        if more is not None and index_R is None:
            index_R = torch.arange(wanted, device=row_R.device)  # of which there are two parts
        return logits_MV, index_R

    def draw_at(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        cells: Cells,
        noise_step: int,
        where: Where | None,
        draw: TokenDraw | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A token and a score [R] for each cell; no score where the order is known."""
        draw = self.draw if draw is None else draw
        # noise by step, row and position, for the positions that are drawn
        uniform_R = None
        if draw.options.temperature > 0:
            position_R = where.position if where else self.position_BL[cells.row, cells.column]
            uniform_R = self.noise.uniform(TOKEN, noise_step, cells.row, position_R)
        drawn_R, score_R, usable_R = draw(
            logits_MV, index_R, uniform_R, lambda i, j: self.tokens_BL[cells.row[i:j]], where
        )
        wrong_R = None if score_R is None else score_R.isnan()
        # looked at after the block, so that the host does not wait now
        self.unusable.append((self.nfe + 1, self.live_B, cells.row, usable_R, wrong_R))
        return drawn_R, score_R

    def checked_scores(self, score_BW: torch.Tensor, masked_BW: torch.Tensor) -> torch.Tensor:
        """Scores of a known order, finite; NaN on masked columns is told by `check`."""
        check_scores(score_BW, self.policy, tuple(masked_BW.shape))
        wrong_R = (score_BW.isnan() & masked_BW).flatten()
        row = torch.arange(len(score_BW), device=wrong_R.device)
        row_R = row.repeat_interleave(score_BW.shape[1])
        self.unusable.append((self.nfe + 1, self.live_B, row_R, torch.ones_like(wrong_R), wrong_R))
        # an infinite score must stay before the keys of columns that are not to be filled
        most = torch.finfo(torch.float64).max / 2
        return score_BW.double().clamp(-most, most)

    # ----- Writing --------------------------------------------------------------------------------

    def write(self, row_R: torch.Tensor, column_R: torch.Tensor, tokens_R: torch.Tensor) -> None:
        """Put the drawn tokens in, and note the pass, whose number is not counted up yet."""
        self.tokens_BL[row_R, column_R] = tokens_R
        self.revealed_in_AL[self._in_batch(row_R), column_R] = self.nfe + 1

    def rewrite(self, cells: Cells, edits: Edits) -> None:
        """Put edited tokens in; the others stay as they are."""
        self.tokens_BL[cells.row, cells.column] = edits.tokens
        row_R = self._in_batch(cells.row)
        before_R = self.revealed_in_AL[row_R, cells.column]
        after_R = torch.where(edits.edited, self.nfe + 1, before_R)
        self.revealed_in_AL[row_R, cells.column] = after_R
        self.edited_A.index_add_(0, row_R, edits.edited.long())

    def note_confidence(
        self,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        row_R: torch.Tensor,
        column_R: torch.Tensor,
    ) -> None:
        """Keep the probability of each token that was just written.

        Args:
            logits_MV: of the pass.
            index_R: which of them belong to the written tokens.
            row_R, column_R: where these are.
        """
        assert self.confidence_BL is not None
        tokens_R = self.tokens_BL[row_R, column_R]
        probability_R = self.draw.probability(
            logits_MV, index_R, tokens_R, lambda i, j: self.tokens_BL[row_R[i:j]]
        )
        self.confidence_BL[row_R, column_R] = probability_R.double()

    def _in_batch(self, row_R: torch.Tensor) -> torch.Tensor:
        return row_R if self.row_in_batch_B is None else self.row_in_batch_B[row_R]

    def count_pass(self, gained_B: Integers, drawn_B: Integers, part_B: Truths) -> None:
        """Note what a pass did to each row."""
        self.nfe += 1
        for record, number_B in ((self.revealed, gained_B), (self.drawn, drawn_B)):
            number_A = np.zeros(len(self.final_AL), dtype=np.int64)
            number_A[self.live_B] = number_B
            record.append(number_A)
        self.passes_A[self.live_B] += part_B

    # ----- Ends -----------------------------------------------------------------------------------

    def finish(self) -> Integers | None:
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
        self.prompt_BL = self.prompt_BL[going]
        self.memory.keep(going)
        if self.confidence_BL is not None:
            self.confidence_BL = self.confidence_BL[going]
        self.noise, self.live_B = SequenceNoise(self.noise.keys[going]), self.live_B[keep]
        if not self.denoiser.whole_batch:
            self.denoiser.keep(going)
        return keep

    def check(self) -> None:
        """Raise for the first pass with unusable logits or scores; asks the device once."""
        good = [usable for *_, usable, _ in self.unusable]
        good += [~wrong for *_, wrong in self.unusable if wrong is not None]
        if good and not bool(torch.cat(good).all()):
            # only now, where something is wrong, one question for each pass
            for number, live_B, row_R, usable_R, wrong_R in self.unusable:
                if not bool(usable_R.all()):
                    raise InvalidValueError(
                        "the model gave logits with NaN, +inf or nothing left to draw, at pass "
                        f"{number} for row {live_B[int(row_R[~usable_R][0])]}"
                    )
                if wrong_R is not None and bool(wrong_R.any()):
                    raise InvalidValueError(
                        f"the policy {self.policy.name!r} ({type(self.policy).__name__}) gave "
                        f"scores that are NaN, at pass {number} for row "
                        f"{live_B[int(row_R[wrong_R][0])]}"
                    )
        self.unusable.clear()
