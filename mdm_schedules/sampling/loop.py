"""The sampling loop: fill every mask of a batch, revealing what the plan says, where the policy
says.

Counts are known on the host before the first pass, so the loop never waits for the device: rows of
logits are chosen by index tensors built from the plan, and one check at the end of a block tells
unusable logits. Two options must ask the device something: `threshold` and `entropy_bound` for the
size of the next pass, after each pass; `eos_token_ids` for what has ended, every `EOS_EVERY`
passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.lookup import schedule_for_steps
from mdm_schedules.models import as_denoiser
from mdm_schedules.sampling.commits import CommitRule
from mdm_schedules.sampling.draw import DrawOptions, TokenDraw
from mdm_schedules.sampling.noise import RowSeeds, check_seed, plain_seed
from mdm_schedules.sampling.output import GenerationOutput, StepInfo
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy, get_policy
from mdm_schedules.sampling.quotas import ancestral_tables, block_spans, count_tables
from mdm_schedules.sampling.state import SamplerState
from mdm_schedules.schedules import Schedule

Callback = Callable[[StepInfo], object]


def sample(
    denoiser: Any,
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
    attention_mask: torch.Tensor | None = None,
    commit: CommitRule | None = None,
    remask_fraction: float = 0.0,
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
        denoiser: see `mdm_schedules.models.as_denoiser`: a Denoiser, or a function (tokens, rows)
            -> logits.
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
        attention_mask: bool [B, L], False on padding, so that noise is counted from the sequence's
            own first token.
        commit: reveal more than the plan where the model is sure.
        remask_fraction: share in [0, 1] of a block's revealed tokens, chosen at random, that each
            pass masks again, as far as the steps left can fill them (ReMDM's capped rate, arXiv
            2503.00307); the passes stay as planned.
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
    real = (
        torch.ones_like(tokens, dtype=torch.bool)
        if attention_mask is None
        else attention_mask.bool()
    )
    seed = plain_seed(seed)
    row_seeds = RowSeeds(
        check_seed(seed, len(tokens)), tokens, real, distinct=seed is None or isinstance(seed, int)
    )
    remask_fraction = check_real("remask_fraction", remask_fraction, 0, 1)
    ends = [check_int("eos_token_ids", token, 0) for token in eos_token_ids]
    fills = ends if pad_token_id is None else [*ends, check_int("pad_token_id", pad_token_id, 0)]
    if mask_token_id in fills:
        raise InvalidValueError(
            f"eos_token_ids and pad_token_id must not be the mask token, {mask_token_id}"
        )
    if commit is not None:
        commit.check(policy, remask_fraction)
    masked = (tokens == mask_token_id) & real
    run = SamplerState(
        denoiser=as_denoiser(denoiser),
        tokens=tokens.clone(),
        policy=policy,
        draw=TokenDraw(draw or DrawOptions(), policy, mask_token_id),
        noise=row_seeds.noise,
        position=real.long().cumsum(1) - 1,
        mask_token_id=mask_token_id,
        commit=commit,
        remask_fraction=remask_fraction,
        eos=torch.tensor(ends, device=tokens.device) if ends else None,
        pad_token_id=[*ends, 0][0] if pad_token_id is None else pad_token_id,
        answer_start=answer_start,
        crop=crop,
        report=callback is not None or output_history,
        masked=masked,
        real=real,
    )
    spans = block_spans(block_ends, tokens.shape[1])
    # the one place where the host waits for the device, unless an option needs more
    counts = torch.stack([masked[:, start:end].sum(1) for start, end in spans], 1).cpu()
    schedule = schedule_for_steps(schedule, steps if isinstance(steps, int) else None)
    tables = count_tables(schedule, plan, counts, steps, policy)
    if isinstance(policy, OrderPolicy) and policy.random_counts:
        tables = ancestral_tables(
            schedule, steps, policy, masked, run.position, spans, counts, run.noise
        )
    total = sum(int((table > 0).any(0).sum()) for table in tables)
    history = []
    bar = tqdm(total=total, disable=not progress, desc="denoising", unit="pass")
    with closing(run.denoiser), bar:
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
    executed, drawn = (
        torch.from_numpy(np.stack(told, 1)) if told else counts.new_zeros(len(tokens), 0)
        for told in (run.revealed, run.drawn)
    )
    return GenerationOutput(
        run.all_tokens(),
        run.nfe,
        (executed > 0).sum(1),
        executed,
        row_seeds.tolist(),
        drawn,
        run.revealed_in,
        eos_token_ids=tuple(ends),
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
