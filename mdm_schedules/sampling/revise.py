"""Filled positions that are looked at again: edited, or revoked.

Both read the model's distribution at positions of the block under way that the run itself has
filled. Never at the prompt, nor at earlier blocks, so that what a cache holds of them stays true.

    edit      a token other than the one in place has a probability above `edit_threshold`: it is
              put in its place (LLaDA2.1's token-to-token editing)
    revoke    the token in place has a probability below `revoke_threshold`: it is masked again
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from mdm_schedules.sampling.draw import DrawOptions, TokenDraw
from mdm_schedules.sampling.policies import LowConfidence

if TYPE_CHECKING:
    from mdm_schedules.sampling.block import Cells
    from mdm_schedules.sampling.state import SamplerState


class Edits(NamedTuple):
    """What a look at filled positions found, each [R].

    Attributes:
        tokens: LongTensor, what stands there afterwards.
        edited: bool.
        doubt: the probability of the token in place where it is to be revoked, else inf.
    """

    tokens: torch.Tensor
    edited: torch.Tensor
    doubt: torch.Tensor


@dataclass
class Revision:
    """Looks at filled positions.

    Attributes:
        options: how tokens are drawn.
        mask_token_id: what is never drawn.
        edit_threshold: in [0, 1]; None edits nothing.
        revoke_threshold: in [0, 1]; None revokes nothing.
    """

    options: DrawOptions
    mask_token_id: int
    edit_threshold: float | None
    revoke_threshold: float | None

    def __post_init__(self) -> None:
        self.draw = TokenDraw(self.options, LowConfidence(), self.mask_token_id)

    def look(
        self,
        state: SamplerState,
        logits_MV: torch.Tensor,
        index_R: torch.Tensor | None,
        filled: Cells,
        noise_step: int,
    ) -> Edits:
        """Read the filled positions; changes nothing."""
        held_R = state.tokens_BL[filled.row, filled.column]
        tokens_R, edited_R = held_R, torch.zeros_like(held_R, dtype=torch.bool)
        if self.edit_threshold is not None:
            drawn_R, score_R = state.draw_at(
                logits_MV, index_R, filled, noise_step, None, self.draw
            )
            assert score_R is not None
            edited_R = (drawn_R != held_R) & (score_R > self.edit_threshold)
            tokens_R = torch.where(edited_R, drawn_R, held_R)
        doubt_R = torch.full_like(held_R, torch.inf, dtype=torch.float64)
        if self.revoke_threshold is not None:
            held_p = self.draw.probability(
                logits_MV, index_R, held_R, lambda i, j: state.tokens_BL[filled.row[i:j]]
            ).double()
            doubtful_R = (held_p < self.revoke_threshold) & ~edited_R
            doubt_R = torch.where(doubtful_R, held_p, torch.inf)
        return Edits(tokens_R, edited_R, doubt_R)
