"""The sampling loop: each pass reveals as many masks as the plan says, where the policy says.

Counts are known on the host before the first pass, so the loop never waits for the device: rows of
logits are chosen by index tensors built from the plan, and one check at the end of a block finds
unusable logits. Some options must ask the device something: a commit rule and `revoke_threshold`
for the size of the next pass, together, once a pass; `max_post_steps` whether there was an edit;
`eos_token_ids` for what has ended, every `EOS_EVERY` passes.

`examples/sampler_in_30_lines.py` has the algorithm without all this; its tokens are the same.
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
from mdm_schedules.plan import MAX_STEPS
from mdm_schedules.sampling.block import BlockRun
from mdm_schedules.sampling.commits import CommitRule, get_commit
from mdm_schedules.sampling.draw import DrawOptions, TokenDraw
from mdm_schedules.sampling.noise import RowSeeds, check_seed, plain_seed
from mdm_schedules.sampling.output import GenerationOutput, StepInfo
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy, get_policy
from mdm_schedules.sampling.quotas import block_spans, plan_tables
from mdm_schedules.sampling.remask import (
    RemaskFraction,
    check_remask,
    get_remask_fraction,
    try_fraction,
)
from mdm_schedules.sampling.revise import Revision
from mdm_schedules.sampling.state import SamplerState
from mdm_schedules.sampling.trial import try_out
from mdm_schedules.sampling.where import extent
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
    commit: str | CommitRule | None = None,
    remask_fraction: float | str | RemaskFraction = 0.0,
    remask: str = "uniform",
    edit_threshold: float | None = None,
    revoke_threshold: float | None = None,
    max_post_steps: int = 0,
    eos_token_ids: Sequence[int] = (),
    pad_token_id: int | None = None,
    answer_start: int = 0,
    crop: bool = False,
    callback: Callback | None = None,
    progress: bool = False,
    output_history: bool = False,
) -> GenerationOutput:
    """Fill the mask tokens of `tokens`; `mdm_schedules.generate` does so for models and prompts.

    Args:
        denoiser: see `mdm_schedules.models.as_denoiser`: a Denoiser, or a function (tokens, rows)
            -> logits.
        tokens: LongTensor [B, L]; never changed.
        mask_token_id: the id to be filled; never drawn.
        schedule: name, spec or Schedule, for the number of tokens per step.
        steps: passes, or passes per block; None is one pass per token, each row by its own number
            of them.
        plan: tokens per step instead of a schedule, [steps] or [B, steps], summing to the masked
            tokens of the fullest block; blocks with fewer follow it until they are full.
        block_ends: columns where blocks end, for filling block by block from the left; None is one
            block.
        remasking: position policy, by name or an object.
        draw: temperature, top_k, top_p and what may not be drawn.
        seed: None, an int, or one int per row. A row's noise depends on its seed and its prompt; of
            rows with equal prompts all but the first get seeds derived from a single int; the
            output's `seeds` lists them.
        attention_mask: bool [B, L], False on padding, so that noise is counted from the sequence's
            own first token.
        commit: a rule, or its spec, that reveals more than the plan where the model is sure.
        remask_fraction: share in [0, 1] of a block's revealed tokens that each pass masks again,
            but no more than the steps left can fill (ReMDM's capped rate, arXiv 2503.00307); or a
            schedule of it, "rescale(0.3)" or "loop(0.1)"; the passes stay as planned.
        remask: which of them: "uniform", or "confidence", where tokens that had a small probability
            when they were revealed are the likelier ones (ReMDM-conf).
        edit_threshold: in each pass replace tokens of the block that the run has revealed, where
            another one has a probability above this, in [0, 1].
        revoke_threshold: in each pass mask revealed tokens of the block again whose probability is
            below this, in [0, 1], but no more than the steps left can fill.
        max_post_steps: at most so many more passes for each block once it is filled, as long as
            they edit something.
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
    # ----- What the run works with: everything wrong is said here -----
    policy = get_policy(remasking)
    _check_tokens(tokens, mask_token_id)
    tokens_AL = tokens  # the caller's, never written to
    # padding is neither filled nor counted
    if attention_mask is None:
        real_AL = torch.ones_like(tokens_AL, dtype=torch.bool)
    else:
        real_AL = attention_mask.bool()
    draw = draw or DrawOptions()
    fraction = get_remask_fraction(remask_fraction)
    by_confidence = check_remask(remask) == "confidence" and fraction.fraction > 0
    revision = _revision(draw, mask_token_id, edit_threshold, revoke_threshold, fraction)
    max_post_steps = _check_post_steps(max_post_steps, edit_threshold)
    ends, pad = _check_ends(eos_token_ids, pad_token_id, mask_token_id)
    if fraction.fraction:
        try_fraction(fraction)
    if commit is not None:
        commit = get_commit(commit)
        commit.check(policy, fraction.fraction)
    try_out(policy, commit, mask_token_id, tokens.device)
    # one seed for the batch makes copies of a prompt differ; a list is taken as it is
    seed = plain_seed(seed)
    one_seed = seed is None or isinstance(seed, int)
    row_seeds = RowSeeds(check_seed(seed, len(tokens)), tokens_AL, real_AL, distinct=one_seed)
    # what is to be filled; a mask token on padding is not
    masked_AL = (tokens_AL == mask_token_id) & real_AL
    watch = commit.watch_parts if commit is not None and commit.watches else None
    state = SamplerState(
        denoiser=as_denoiser(denoiser),
        tokens_BL=tokens_AL.clone(),
        policy=policy,
        draw=TokenDraw(draw, policy, mask_token_id, watch),
        noise=row_seeds.noise,
        position_BL=real_AL.long().cumsum(1) - 1,
        mask_token_id=mask_token_id,
        commit=commit,
        remask_fraction=fraction if fraction.fraction else None,
        remembers_confidence=by_confidence,
        revision=revision,
        max_post_steps=max_post_steps,
        eos=torch.tensor(ends, device=tokens.device) if ends else None,
        pad_token_id=pad,
        answer_start=answer_start,
        crop=crop,
        report=callback is not None or output_history,
        masked_BL=masked_AL,
        real_AL=real_AL,
    )

    # ----- How many tokens each step of each block reveals -----
    spans = block_spans(block_ends, tokens.shape[1])
    # the one place where the host waits for the device, unless an option needs more
    facts = [(masked_AL[:, i:j].sum(1), extent(masked_AL[:, i:j])[1]) for i, j in spans]
    counts_AN, lengths_AN = torch.stack([torch.stack(pair, 1) for pair in facts], 2).cpu().unbind(1)
    widths = lengths_AN.amax(0).tolist()
    # a preset or repository may hold several schedules, for different numbers of steps
    schedule = schedule_for_steps(schedule, steps if isinstance(steps, int) else None)
    tables, stills = plan_tables(
        schedule, plan, steps, policy, masked_AL, state.position_BL, spans, counts_AN,
        state.noise, fraction,
    )  # fmt: skip
    # a step that reveals nothing in any row costs no pass, unless it masks again and fills
    total = sum(
        int((table_AK > 0).any(0).sum()) + len(still)
        for table_AK, still in zip(tables, stills, strict=True)
    )

    # ----- The passes, block by block -----
    history = []
    # `nfe` may fall short of `total`, where rows end early or a commit rule takes more
    bar = tqdm(total=total, disable=not progress, desc="denoising", unit="pass")
    # the denoiser lets go of what it holds, also after an error
    with closing(state.denoiser), bar:
        for block, (start, end) in enumerate(spans):
            run = BlockRun(
                state, start, end, tables[block].numpy(), block, widths[block], stills[block]
            )
            for report in run.fill():
                bar.update()
                if report is None:
                    continue
                info = StepInfo(state.nfe, total, *report)
                if output_history:
                    history.append(info.tokens.clone())  # a callback may write to its own
                if callback is not None:
                    callback(info)
            # one look for unusable logits in the whole block, where the host waits for the device
            state.check()

    # ----- What came of it -----
    # K here counts the passes that were run, in all blocks
    revealed_AK, drawn_AK = (
        torch.from_numpy(np.stack(record, 1)) if record else counts_AN.new_zeros(len(tokens), 0)
        for record in (state.revealed, state.drawn)
    )
    return GenerationOutput(
        sequences=state.all_tokens(),
        nfe=state.nfe,
        nfe_per_row=torch.from_numpy(state.passes_A),
        plan=revealed_AK,
        seeds=row_seeds.tolist(),
        drawn=drawn_AK,
        edited=state.edited_A.cpu(),
        revealed_in=state.revealed_in_AL,
        eos_token_ids=tuple(ends),
        history=history,
    )


def _revision(
    draw: DrawOptions,
    mask_token_id: int,
    edit_threshold: float | None,
    revoke_threshold: float | None,
    fraction: RemaskFraction,
) -> Revision | None:
    """How filled positions are looked at again; None where they are not."""
    given = {"edit_threshold": edit_threshold, "revoke_threshold": revoke_threshold}
    for name, value in given.items():
        if value is not None:
            check_real(name, value, 0, 1)
    if revoke_threshold is not None and fraction.fraction:
        raise InvalidValueError("give revoke_threshold or remask_fraction, not both")
    if edit_threshold is None and revoke_threshold is None:
        return None
    return Revision(draw, mask_token_id, edit_threshold, revoke_threshold)


def _check_post_steps(steps: int, edit_threshold: float | None) -> int:
    """Passes for edits after a block's last mask."""
    steps = check_int("max_post_steps", steps, 0, MAX_STEPS)
    if steps and edit_threshold is None:
        raise InvalidValueError(
            f"max_post_steps={steps} needs an edit_threshold, such as edit_threshold=0.9; without "
            "edits a filled block needs no more passes"
        )
    return steps


def _check_ends(
    eos_token_ids: Sequence[int], pad_token_id: int | None, mask_token_id: int
) -> tuple[list[int], int]:
    """The tokens that end a row, and what follows them."""
    ends = [check_int("eos_token_ids", token, 0) for token in eos_token_ids]
    fills = ends if pad_token_id is None else [*ends, check_int("pad_token_id", pad_token_id, 0)]
    if mask_token_id in fills:
        raise InvalidValueError(
            f"eos_token_id and pad_token_id must not be the mask token, {mask_token_id}"
        )
    # without ends nothing is padded
    return ends, [*ends, 0][0] if pad_token_id is None else pad_token_id


def _check_tokens(tokens: Any, mask_token_id: int) -> None:
    """Raise unless `tokens` is a LongTensor [batch, length] that holds something."""
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
