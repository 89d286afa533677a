"""A RemaskingPolicy of vLLM's dllm-plugin that follows any mask schedule.

    from mdm_schedules.integrations.vllm import MDMRemaskingPolicy

    policy = MDMRemaskingPolicy(schedule="beta(a=0.9, b=0.3)", steps=8)

The plugin gives one block to `apply` after each pass. In its version of 2026-04 no worker calls
policies yet: the contract stands, and is what this class is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.errors import InvalidValueError, MissingExtraError
from mdm_schedules.integrations.engines import BlockSettings
from mdm_schedules.sampling.noise import TOKEN, SequenceNoise

INSTALL = "pip install git+https://github.com/vllm-project/dllm-plugin"
VERSIONS = "the commit 0c53db5 of 2026-04-16; the release 0.0.1 has no policies"


def _contract() -> tuple[Any, int]:
    """The plugin's result class, and its block length."""
    try:
        from vllm_dllm_plugin.config import DRAFT_SIZE
        from vllm_dllm_plugin.remasking import RemaskStepResult
    except ImportError as error:
        raise MissingExtraError(
            f"dllm-plugin is missing or has no remasking policies ({error}); run: {INSTALL} (known "
            f"to work: {VERSIONS})"
        ) from error
    return RemaskStepResult, DRAFT_SIZE


class MDMRemaskingPolicy:
    """Fills a block by a schedule's plan, pass by pass.

    Args:
        **settings: of `mdm_schedules.integrations.engines.BlockSettings`: schedule, steps,
            remasking, commit or threshold, temperature, seed.

    Raises:
        MissingExtraError: the plugin is missing, or too old to have policies.
        MDMError: settings that are not allowed, such as more steps than the block has tokens.
    """

    def __init__(self, **settings: Any) -> None:
        self._result, self._length = _contract()
        self.settings = BlockSettings.read(settings, self._length)

    def apply(
        self,
        *,
        input_draft: Sequence[int],
        logits: Any | None = None,
        remasking_config: Mapping[str, Any] | None = None,
    ) -> Any:
        """The block after one pass.

        Args:
            input_draft: tokens of the block, with masks.
            logits: [block, vocabulary].
            remasking_config: mask_token_id, and denoise_step_index of this pass, from 0. Also the
                plugin's denoise_steps (instead of this policy's steps), num_transfer (instead of
                the plan) and commit_confidence_threshold (instead of the commit rule).

        Returns:
            The plugin's RemaskStepResult: the tokens of the block and a block of masks where none
            is left to fill, else no tokens and the block as it is.
        """
        given = dict(remasking_config or {})
        mask = check_int("mask_token_id", given.get("mask_token_id"), 0)
        index = check_int("denoise_step_index", given.get("denoise_step_index"), 0)
        settings = self._for_pass(given)
        if len(input_draft) != self._length or logits is None:
            raise InvalidValueError(
                f"a pass needs {self._length} tokens and their logits, got {len(input_draft)} and "
                f"{'none' if logits is None else 'logits'}"
            )
        rows = torch.as_tensor(logits).detach()
        tokens = torch.tensor([list(input_draft)], device=rows.device)
        count = given.get("num_transfer")
        if count is None:
            plan = settings.plan(torch.tensor([self._length]))[0]
            # the last pass of the plan fills what is left
            count = self._length if index + 1 >= settings.steps else int(plan[index])
        least = torch.tensor([check_int("num_transfer", count, 0)])
        masked = tokens == mask
        uniform = None
        if settings.temperature:
            noise = SequenceNoise(torch.tensor([settings.seed or 0], device=rows.device))
            place = torch.arange(self._length, device=rows.device)[None]
            uniform = noise.uniform(TOKEN, index, torch.zeros_like(place), place)
        new = settings.fill(settings.draw(mask), rows, tokens, masked, least, uniform)
        block = tuple(new[0].tolist())
        if mask in block:
            return self._result(committed_token_ids=(), next_input_block=block)
        return self._result(committed_token_ids=block, next_input_block=(mask,) * self._length)

    def _for_pass(self, given: Mapping[str, Any]) -> BlockSettings:
        """The settings with what the plugin's config says otherwise."""
        own = self.settings
        threshold = given.get("commit_confidence_threshold")
        return BlockSettings.read(
            {
                "schedule": own.schedule,
                "steps": given.get("denoise_steps", own.steps),
                "remasking": own.remasking,
                "commit": own.commit if threshold is None else None,
                "threshold": None if threshold is None else check_real("threshold", threshold),
                "temperature": own.temperature,
                "seed": own.seed,
            },
            self._length,
        )
