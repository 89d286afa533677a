"""`generate`: from a model and prompts to finished sequences, through the one sampling loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, check_int, check_real
from mdm_schedules.information.measure import evaluating
from mdm_schedules.integrations.models import ModelAdapter, get_adapter
from mdm_schedules.integrations.transformers.config import DEFAULTS, merge_options
from mdm_schedules.integrations.transformers.inputs import (
    block_ends,
    check_mask_token,
    check_new_tokens,
    check_prompt,
    check_rest,
    check_suppressed,
    plain_processor,
    token_ids,
    unexpanded,
)
from mdm_schedules.integrations.transformers.streaming import StreamerFeed
from mdm_schedules.registry import schedule_for_steps
from mdm_schedules.sampling import (
    CommitRule,
    ConfidencePolicy,
    DrawOptions,
    GenerationOutput,
    OrderPolicy,
    StepInfo,
    sample,
)
from mdm_schedules.sampling.counts import split_steps
from mdm_schedules.schedules import Linear, Schedule


@torch.no_grad()
def generate(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    schedule: str | Schedule | None = None,
    steps: int | None = None,
    max_new_tokens: int | None = None,
    block_length: int | None = None,
    remasking: str | ConfidencePolicy | OrderPolicy | None = None,
    temperature: float | None = None,
    mask_token_id: int | None = None,
    seed: int | Sequence[int] | None = None,
    *,
    plan: Any = None,
    top_k: int | None = None,
    top_p: float | None = None,
    suppress_tokens: Sequence[int] | None = None,
    logits_processor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    infill: bool | None = None,
    threshold: float | None = None,
    entropy_bound: float | None = None,
    remask: float | None = None,
    cfg_scale: float | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    num_return_sequences: int | None = None,
    generation_config: Any = None,
    adapter: str | None = None,
    streamer: Any = None,
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
    output_history: bool = False,
    **rest: Any,
) -> GenerationOutput:
    """Write `max_new_tokens` tokens after each prompt, and fill the masks inside it, in `steps`
    forward passes.

    An option that is None is taken from `generation_config`, else from the model's own generation
    config if it is a MaskedDiffusionGenerationConfig, else it is the default told here.

    Args:
        model: a masked language model (see `mdm_schedules.integrations.models`), or a function from
            tokens [B, L] to logits [B, L, V].
        input_ids: LongTensor [B, P]; prompts of different lengths are padded on the left. Never
            changed.
        attention_mask: [B, P], 0 on padding; None if nothing is padded.
        schedule: as `get_schedule` takes it; `steps` chooses where a Hub id, folder or preset has
            several. By default the model's own, else linear.
        steps: forward passes in all, shared among blocks; by default one per token.
        max_new_tokens: masks appended to the prompt; by default none to a prompt that holds masks.
        block_length: write blocks of so many tokens from left to right, the last one perhaps
            shorter; by default all at once.
        remasking: low_confidence (the default), margin, entropy, random, ancestral, left_to_right,
            or a policy object.
        temperature: 0, the default, takes the most probable token. Confidence is read before it is
            applied.
        mask_token_id: by default that of the model's config.
        seed: None, an int, or one int per returned row. A sequence draws the same tokens whatever
            the batch around it.
        plan: tokens per step in place of schedule and steps, [steps] or [B, steps], for each block.
            Given now, it goes before a schedule and steps kept in a config, and either of these
            before a plan kept there.
        top_k: draw among so many of the most probable tokens; 0 among all.
        top_p: draw among the most probable tokens that together have this probability, in (0, 1].
        suppress_tokens: token ids that are never drawn.
        logits_processor: (input_ids [R, L], scores [R, V]) -> scores, or a LogitsProcessorList,
            before the draw; R are the positions asked for, each with its whole sequence.
        infill: False refuses prompts that hold the mask token.
        threshold: with low_confidence, each pass also reveals every token whose probability is
            above this, in [0, 1], which takes fewer passes; at 1 there is none.
        entropy_bound: with the entropy policy, each pass also reveals the surest tokens up to this
            joint entropy, nats.
        remask: share of revealed tokens that each pass masks again (ReMDM), in [0, 1]; the passes
            stay as planned.
        cfg_scale: classifier-free guidance: u + (cfg_scale + 1)(c - u) of the logits c with and u
            without the prompt. Each pass then runs the model on twice the batch.
        eos_token_id: end a row at this token (or these) in its answer once all before it is filled.
            By default rows go on to the end, as the models' own samplers do.
        pad_token_id: what follows the end; by default the first `eos_token_id`.
        num_return_sequences: answers per prompt, next to each other.
        generation_config: a MaskedDiffusionGenerationConfig; of a plain GenerationConfig only
            max_new_tokens, num_return_sequences and, with do_sample, temperature, top_k and top_p
            are taken; beam search is refused.
        adapter: name of the model adapter; by default chosen by the model.
        streamer: a transformers TextDiffusionStreamer or TextStreamer; one sequence only.
        callback: called with a `StepInfo` after each pass.
        progress: show a progress bar.
        output_history: keep the tokens after each pass in `.history`.
        **rest: what transformers' own generate adds for a cache is ignored; anything else is an
            error.

    Returns:
        GenerationOutput with `.sequences` LongTensor [B, P + max_new_tokens] and `.nfe`, the
        forward passes spent.

    Raises:
        MDMError: anything wrong with the arguments, before the first pass (but the few tokens by
            which it is tried, once per model, whether its head takes single rows, and whether it
            minds padding).
    """
    given = {name: value for name, value in locals().items() if name in DEFAULTS}
    check_rest(rest, list(inspect.signature(generate).parameters))
    input_ids, attention_mask = unexpanded(input_ids, attention_mask, generation_config, rest)
    o = merge_options(given, generation_config, getattr(model, "generation_config", None))
    bound = get_adapter(model, adapter)
    mask = check_mask_token(bound, o["mask_token_id"])
    prompt, own = check_prompt(bound, input_ids, attention_mask)
    copies = check_int("num_return_sequences", o["num_return_sequences"], 1, 1 << 20)
    prompt, own = prompt.repeat_interleave(copies, 0), own.repeat_interleave(copies, 0)
    has_masks = bool(((prompt == mask) & own).any())
    if not isinstance(o["infill"], bool):
        raise InvalidTypeError(f"infill must be True or False, got {o['infill']!r}")
    if has_masks and not o["infill"]:
        raise InvalidValueError(
            "the prompt holds the mask token, which infill=False refuses; infill=True fills it"
        )
    new = check_new_tokens(o["max_new_tokens"], has_masks)
    if new and not bool((own[:, 1:] >= own[:, :-1]).all()):
        raise InvalidValueError(
            "attention_mask must have its zeros on the left, since the answer follows the prompt; "
            "use tokenizer(..., padding=True, padding_side='left')"
        )
    ends = block_ends(bound, own, new, o["block_length"])
    tokens = torch.nn.functional.pad(prompt, (0, new), value=mask)
    own = torch.nn.functional.pad(own, (0, new), value=True)
    blank = (tokens == mask) & own
    longest = int(own.sum(1).max())
    if bound.max_length is not None and longest > bound.max_length:
        raise InvalidValueError(
            f"prompt and answer take {longest} tokens, but the model has positions for "
            f"{bound.max_length}; "
            f"shorten the prompt or use max_new_tokens={max(0, bound.max_length - longest + new)}"
        )
    passes: int | list[int] | None = None
    if o["steps"] is not None:
        passes = check_int("steps", o["steps"], 1, example="steps=16")
        if len(ends) > 1:
            spans = zip([0, *ends[:-1]], ends, strict=True)
            passes = split_steps(passes, [int(blank[:, a:b].sum(1).max()) for a, b in spans])
    eos = token_ids("eos_token_id", o["eos_token_id"], bound.vocab_size)
    pad = token_ids("pad_token_id", o["pad_token_id"], bound.vocab_size)
    scale = check_real("cfg_scale", o["cfg_scale"], 0)
    never = () if o["suppress_tokens"] is None else o["suppress_tokens"]
    check_suppressed(bound, never, mask)
    draw = DrawOptions(
        o["temperature"], o["top_k"], o["top_p"], never, plain_processor(logits_processor)
    )
    schedule = schedule_for_steps(
        own_schedule(model) if o["schedule"] is None else o["schedule"], o["steps"]
    )
    feed = (
        None
        if streamer is None
        else StreamerFeed(streamer, prompt, mask, final=not (o["remask"] or eos))
    )
    padded = None if bool(own.all()) else own
    with evaluating(model):
        bound.check_tokens(torch.full_like(tokens, mask) if scale else tokens, own, mask)
        if padded is not None:
            bound.check_padding()
        out = sample(
            ModelDenoiser(bound, padded, (tokens != mask) & own if scale else None, mask, scale),
            tokens,
            mask_token_id=mask,
            schedule=schedule,
            steps=passes,
            plan=o["plan"],
            block_ends=ends,
            remasking=o["remasking"],
            draw=draw,
            seed=o["seed"],
            own=own,
            commit=CommitRule(o["threshold"], o["entropy_bound"]),
            remask=o["remask"],
            eos_token_ids=eos,
            pad_token_id=pad[0] if pad else None,
            answer_start=prompt.shape[1],
            crop=bound.block_length is not None,
            callback=_both(callback, feed),
            progress=progress,
            output_history=output_history,
        )
    if feed is not None:
        feed.end(out.sequences)
    return replace(out, prompt_length=prompt.shape[1])


def _signature_for_transformers() -> inspect.Signature:
    """Without attention_mask, which transformers' own generate passes twice to a custom function
    that lists it.

    (Once as that function's option, and once as the mask that it then works out by itself, from pad
    tokens.)
    """
    signature = inspect.signature(generate)
    hidden = [
        parameter for name, parameter in signature.parameters.items() if name != "attention_mask"
    ]
    return signature.replace(parameters=hidden)


generate.__signature__ = _signature_for_transformers()  # type: ignore[attr-defined]


@dataclass
class ModelDenoiser:
    """The model as the loop's denoiser, for the rows of the batch that go on."""

    bound: ModelAdapter
    own: torch.Tensor | None  # bool [B, L], False on padding
    prompt: torch.Tensor | None  # bool [B, L], what guidance hides
    mask_token_id: int
    cfg_scale: float

    def __call__(
        self, tokens: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        own = None if self.own is None else self.own[:, : tokens.shape[1]]
        if self.prompt is not None:
            blind = tokens.masked_fill(self.prompt[:, : tokens.shape[1]], self.mask_token_id)
            tokens, rows = torch.cat([tokens, blind]), torch.cat([rows, rows + tokens.numel()])
            own = None if own is None else torch.cat([own, own])
        answer: torch.Tensor | tuple[torch.Tensor, torch.Tensor] = self.bound.logits(
            tokens, rows, own
        )
        if self.prompt is None:
            return answer
        conditional, unconditional = (
            answer[0][answer[1]] if isinstance(answer, tuple) else answer
        ).chunk(2)
        return unconditional + (self.cfg_scale + 1) * (conditional - unconditional)

    def keep(self, rows: torch.Tensor) -> None:
        """See `mdm_schedules.sampling.loop.Denoiser`."""
        self.own = None if self.own is None else self.own[rows]
        self.prompt = None if self.prompt is None else self.prompt[rows]


def _both(
    first: Callable[[StepInfo], object] | None, second: StreamerFeed | None
) -> Callable[[StepInfo], object] | None:
    if first is not None and not callable(first):
        raise InvalidTypeError(f"callback must be callable, got {first!r}")
    if first is None or second is None:
        return first or second
    return lambda info: (first(info), second(info))


def own_schedule(model: Any) -> Schedule:
    """The schedule that the model carries, else linear."""
    schedule = getattr(model, "schedule", None)
    return schedule if isinstance(schedule, Schedule) else Linear()
