"""The algorithm as SGLang's DllmAlgorithm calls it: a step on the blocks of all running requests.

SGLang's class owns both loops, the synchronous one and the one in which blocks that are done leave
first (FDFO); in the latter the rows of a batch are at different steps of their blocks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.integrations.engines import BlockSettings
from mdm_schedules.sampling.noise import TOKEN, SequenceNoise


@dataclass
class RowState:
    """A block that is being filled: the tokens that each pass fills, the next pass, its seed."""

    plan: list[int]
    seed: int
    step: int = 0


class ScheduledBlocks:
    """Mixed into SGLang's DllmAlgorithm; `config` is its DllmConfig.

    Raises InvalidValueError when the server starts: settings that are not allowed, or a model
    without a mask token.
    """

    block_size: int
    mask_id: int

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        if self.mask_id < 0:
            raise InvalidValueError(
                "this model has no mask token (DiffusionGemma corrupts by random tokens), so there "
                "are no masks to schedule; use its own algorithm, Gemma4Renoise"
            )
        self.settings = BlockSettings.read(config.algorithm_config, self.block_size)
        self._draw = self.settings.draw(self.mask_id)

    def _blocks(self, forward_batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, W], a view that may be written to, and bool [B, W], what is to be filled."""
        tokens = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
        masked = tokens == self.mask_id
        # mask tokens that the prompt itself contains stay
        prompt = getattr(forward_batch, "dllm_prompt_mask", None)
        return tokens, masked if prompt is None else masked & ~prompt

    def init_step_state(self, forward_batch: Any) -> list[RowState]:
        """Plan each block by its masks: the first one may hold the end of the prompt."""
        _, masked = self._blocks(forward_batch)
        plans = self.settings.plan(masked.sum(1).cpu()).tolist()
        return [RowState(plan, self._seed(forward_batch, row)) for row, plan in enumerate(plans)]

    def _seed(self, forward_batch: Any, row: int) -> int:
        """The request's own seed, else that of the settings, else one from the request's id.

        All processes that share a model come to the same.
        """
        given = getattr(getattr(forward_batch, "sampling_info", None), "sampling_seed", None)
        if given is not None:
            return int(given[row])
        if self.settings.seed is not None:
            return self.settings.seed
        ids = getattr(forward_batch, "rids", None)
        name = str(ids[row] if ids else row).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little", signed=True)

    @torch.no_grad()
    def step(self, forward_batch: Any, full_logits: Any, states: list[RowState]) -> list[bool]:
        """Fill the masks of one pass in place, and say which blocks are done.

        Args:
            forward_batch: `input_ids` LongTensor [B * W] is written to, since CUDA graphs read it
                where it is.
            full_logits: [B * W, V]; or an object that holds them under this name.
            states: of `init_step_state`, one for each row.

        Returns:
            True for a block that had no mask before this pass: the pass has then stored the keys
            and values of its final tokens. A block in n steps so takes n + 1 passes.
        """
        logits = getattr(full_logits, "full_logits", full_logits)
        tokens, masked = self._blocks(forward_batch)
        done = (~masked.any(1)).tolist()
        if all(done):
            return done  # type: ignore[no-any-return]
        # a plan ends with the last mask; one more each pass if something masked a token again
        least = torch.tensor(
            [[*state.plan, 1][min(state.step, len(state.plan))] for state in states]
        )
        uniform = self._uniform(forward_batch, tokens, states)
        new = self.settings.fill(self._draw, logits, tokens, masked, least, uniform)
        tokens.copy_(new)
        for state in states:
            state.step += 1
        return done  # type: ignore[no-any-return]

    def _uniform(
        self, forward_batch: Any, tokens: torch.Tensor, states: list[RowState]
    ) -> torch.Tensor | None:
        if self.settings.temperature == 0:
            return None
        device = tokens.device
        keys, steps = torch.tensor([(state.seed, state.step) for state in states]).to(device).T
        place = getattr(forward_batch, "positions", None)
        if place is None:
            place = torch.arange(tokens.numel(), device=device) % self.block_size
        # one number for each pass and position: a sequence is shorter than 2**32
        position = place.view(tokens.shape).long() + (steps[:, None] << 32)
        row = torch.arange(len(states), device=device)[:, None]
        return SequenceNoise(keys.contiguous()).uniform(TOKEN, 0, row, position)
