"""`generate`: from a model and prompts to finished sequences, through the one sampling loop."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from typing_extensions import Never, Unpack

from mdm_schedules.checks import check_int, check_real, say_once, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError
from mdm_schedules.lookup import schedule_for_steps
from mdm_schedules.models import ModelAdapter, ModelDenoiser, evaluating, get_adapter
from mdm_schedules.models.wrappers import unwrap
from mdm_schedules.sampling.caching import choose_cache
from mdm_schedules.sampling.commits import choose_commit
from mdm_schedules.sampling.constraints import Truth, token_ids
from mdm_schedules.sampling.draw import DrawOptions
from mdm_schedules.sampling.loop import sample
from mdm_schedules.sampling.options import OPTIONS, GenerateOptions
from mdm_schedules.sampling.output import GenerationOutput, StepInfo
from mdm_schedules.sampling.prompt import (
    block_ends,
    check_mask_token,
    check_new_tokens,
    check_prompt,
    check_rest,
    check_suppressed,
    encoded,
    plain_processor,
    unexpanded,
    warn_of_padding,
)
from mdm_schedules.sampling.quotas import split_steps
from mdm_schedules.sampling.signature import by_name, describe_options, option_parameters
from mdm_schedules.sampling.stored import merge_options
from mdm_schedules.sampling.streaming import StreamerFeed
from mdm_schedules.sampling.vocabulary import undrawable
from mdm_schedules.schedules import Linear, Schedule

# token ids [B, P], what a tokenizer returned, or texts
Prompts = torch.Tensor | Mapping[str, Any] | str | Sequence[str]


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Prompts | None = None,
    attention_mask: torch.Tensor | None = None,
    *in_order: Never,
    **options: Unpack[GenerateOptions],
) -> GenerationOutput:
    """Write `max_new_tokens` tokens after each prompt, and fill the masks inside it.

    An option that is None is taken from `generation_config`, else from the model's own generation
    config if that is a MaskedDiffusionGenerationConfig, else it is the default named here.

    Args:
        model: a masked language model (see `mdm_schedules.models`), or a function from tokens
            [B, L] to logits [B, L, V].
        input_ids: LongTensor [B, P]; prompts of different lengths are padded on the left. Never
            changed. Or what a tokenizer returned, or, with `tokenizer`, a text or a list of texts,
            which it encodes by its defaults.
        attention_mask: [B, P], 0 on padding; None if nothing is padded.
        *in_order: the first eight options may be given by position, in the order below. Type
            checkers ask for their names.

    Returns:
        GenerationOutput with `.sequences` LongTensor [B, P + max_new_tokens] and `.nfe`, the
        forward passes spent. It indexes, and decodes, as its sequences.

    Raises:
        MDMError: anything wrong with the arguments, before the first pass (but the few tokens by
            which it is tried, once per model, whether its head takes single rows, and whether it
            minds padding).
    """
    if isinstance(model, str | os.PathLike | torch.Tensor):
        raise InvalidTypeError(
            f"the order is generate(model, input_ids, ...), got {type(model).__name__} for the "
            "model; AutoModelForMaskedDiffusion.from_pretrained(...) loads one by its name"
        )
    options = by_name(in_order, options)
    check_rest({name: value for name, value in options.items() if name not in OPTIONS})
    config, tokenizer = options.get("generation_config"), options.get("tokenizer")
    input_ids, attention_mask = encoded(input_ids, attention_mask, tokenizer)
    input_ids, attention_mask = unexpanded(input_ids, attention_mask, config, options)
    chosen = merge_options(options, config, getattr(unwrap(model), "generation_config", None))
    adapter = get_adapter(model, options.get("adapter"))
    prompt = _prepare(adapter, input_ids, attention_mask, chosen)
    steps = _share_steps(chosen["steps"], prompt)
    eos = token_ids("eos_token_id", chosen["eos_token_id"], adapter.vocab_size)
    pad = token_ids("pad_token_id", chosen["pad_token_id"], adapter.vocab_size)
    scale = check_real("cfg_scale", chosen["cfg_scale"], 0)
    draw = _draw_options(adapter, chosen, options, prompt.mask_token_id)
    given = chosen["schedule"]
    schedule = (
        own_schedule(model, chosen["steps"])
        if given is None
        else schedule_for_steps(given, chosen["steps"])
    )
    commit = choose_commit(chosen["commit"], chosen["threshold"], chosen["entropy_bound"])
    fraction = chosen["remask_fraction"]
    feed, streamer = None, options.get("streamer")
    if streamer is not None:
        start = prompt.tokens[:, : prompt.length]
        changing = ("remask_fraction", "edit_threshold", "revoke_threshold")
        final = not (eos or any(chosen[name] for name in changing))  # type: ignore[literal-required]
        feed = StreamerFeed(streamer, start, prompt.mask_token_id, final=final)
    with evaluating(model):
        _try_out(adapter, prompt, scale)
        cache = choose_cache(adapter, chosen, prompt, 2 if scale else 1)
        denoiser = ModelDenoiser(
            adapter,
            attention_mask=prompt.padded,
            prompt=prompt.given if scale else None,
            mask_token_id=prompt.mask_token_id,
            cfg_scale=scale,
            cache=cache,
        )
        out = sample(
            denoiser,
            prompt.tokens,
            mask_token_id=prompt.mask_token_id,
            schedule=schedule,
            steps=steps,
            plan=chosen["plan"],
            block_ends=prompt.block_ends,
            remasking="low_confidence" if chosen["remasking"] is None else chosen["remasking"],
            draw=draw,
            seed=chosen["seed"],
            attention_mask=prompt.attention_mask,
            commit=commit,
            remask_fraction=0.0 if fraction is None else fraction,
            remask="uniform" if chosen["remask"] is None else chosen["remask"],
            edit_threshold=chosen["edit_threshold"],
            revoke_threshold=chosen["revoke_threshold"],
            max_post_steps=0 if chosen["max_post_steps"] is None else chosen["max_post_steps"],
            eos_token_ids=eos,
            pad_token_id=pad[0] if pad else None,
            answer_start=prompt.length,
            crop=adapter.block_length is not None,
            callback=_cropped(_both(options.get("callback"), feed), prompt),
            progress=_truth("progress", options.get("progress")),
            output_history=_truth("output_history", options.get("output_history")),
        )
    out = replace(
        out,
        sequences=out.sequences[:, : prompt.end],
        history=[tokens[:, : prompt.end] for tokens in out.history],
        prompt_length=prompt.length,
        cache=None if cache is None else cache.use,
    )
    if feed is not None:
        feed.end(out.sequences)
    return replace(out, tokenizer=tokenizer)


# the options stand in one table, for readers of the signature and of the docstring as well;
# without attention_mask, which transformers' own generate passes twice to a custom function that
# lists it: once as that function's option, and once as the mask that it works out from pad tokens
_positional = [
    parameter
    for name, parameter in inspect.signature(generate).parameters.items()
    if name in ("model", "input_ids")
]
_rest = inspect.Parameter("rest", inspect.Parameter.VAR_KEYWORD)
generate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*_positional, *option_parameters(), _rest]
)
generate.__doc__ = (generate.__doc__ or "").replace(
    "\n\n    Returns:", f"\n{describe_options()}\n\n    Returns:"
)


@dataclass(frozen=True)
class _Prompt:
    """The checked prompt with the masks of the answer.

    Attributes:
        tokens: LongTensor [B, L], the canvas: prompts, then masks.
        attention_mask: bool [B, L], False on padding.
        length: columns of the prompt.
        block_ends: columns where blocks end.
        mask_token_id: of the model.
        end: columns that are returned. A model that attends by blocks gets its last block whole,
            as it was trained; what it writes beyond the answer is dropped.
    """

    tokens: torch.Tensor
    attention_mask: torch.Tensor
    length: int
    block_ends: list[int]
    mask_token_id: int
    end: int

    @property
    def given(self) -> torch.Tensor:
        """bool [B, L], True on what the prompt gives, which guidance hides."""
        return (self.tokens != self.mask_token_id) & self.attention_mask

    @property
    def padded(self) -> torch.Tensor | None:
        """The attention mask, or None where nothing is padded."""
        return None if bool(self.attention_mask.all()) else self.attention_mask


def _prepare(
    adapter: ModelAdapter, input_ids: Any, attention_mask: Any, chosen: GenerateOptions
) -> _Prompt:
    """Check the prompt, repeat it for several answers, and append the masks."""
    mask = check_mask_token(adapter, chosen["mask_token_id"])
    prompt, real = check_prompt(adapter, input_ids, attention_mask)
    if attention_mask is None:
        warn_of_padding(adapter, prompt, mask)
    copies = check_int("num_return_sequences", chosen["num_return_sequences"], 1, 1 << 20)
    prompt, real = prompt.repeat_interleave(copies, 0), real.repeat_interleave(copies, 0)
    has_masks = bool(((prompt == mask) & real).any())
    infill = _truth("infill", chosen["infill"])
    if has_masks and not infill:
        raise InvalidValueError(
            "the prompt holds the mask token, which infill=False refuses; infill=True fills it"
        )
    new = check_new_tokens(chosen["max_new_tokens"], has_masks)
    if new and not bool((real[:, 1:] >= real[:, :-1]).all()):
        raise InvalidValueError(
            "attention_mask must have its zeros on the left, since the answer follows the prompt; "
            "use tokenizer(..., padding=True, padding_side='left')"
        )
    ends = block_ends(adapter, real, new, chosen["block_length"])
    beyond = 0
    if new and adapter.block_length is not None:
        beyond = -(int(real[0].sum()) + new) % adapter.block_length
        ends[-1] += beyond
    tokens = torch.nn.functional.pad(prompt, (0, new + beyond), value=mask)
    real = torch.nn.functional.pad(real, (0, new + beyond), value=True)
    longest = int(real.sum(1).max())
    if adapter.max_length is not None and longest > adapter.max_length:
        raise InvalidValueError(
            f"prompt and answer take {longest} tokens, but the model has positions for "
            f"{adapter.max_length}; shorten the prompt or use "
            f"max_new_tokens={max(0, adapter.max_length - longest + new + beyond)}"
        )
    return _Prompt(tokens, real, prompt.shape[1], ends, mask, prompt.shape[1] + new)


def _truth(name: str, given: bool | None) -> bool:
    """True or False; "no" is neither."""
    return False if given is None else Truth()(name, given)


def _share_steps(steps: int | None, prompt: _Prompt) -> int | list[int] | None:
    """The passes of each block, where there are several."""
    if steps is None:
        return None
    steps = check_int("steps", steps, 1, example="steps=16")
    if len(prompt.block_ends) == 1:
        return steps
    blank = (prompt.tokens == prompt.mask_token_id) & prompt.attention_mask
    spans = zip([0, *prompt.block_ends[:-1]], prompt.block_ends, strict=True)
    return split_steps(steps, [int(blank[:, start:end].sum(1).max()) for start, end in spans])


def _draw_options(
    adapter: ModelAdapter, chosen: GenerateOptions, call: GenerateOptions, mask_token_id: int
) -> DrawOptions:
    asked = chosen["suppress_tokens"]
    ends = token_ids("eos_token_id", chosen["eos_token_id"], adapter.vocab_size)
    special = _truth("suppress_special_tokens", chosen["suppress_special_tokens"])
    never = undrawable(call.get("tokenizer"), adapter.vocab_size, special, ends)
    if isinstance(asked, int | str):  # refused by `DrawOptions`
        never = asked  # type: ignore[assignment]
    elif asked is not None or never:
        asked = token_ids("suppress_tokens", asked, adapter.vocab_size)
        never = sorted({*never, *asked})
        check_suppressed(adapter, never, mask_token_id)
    temperature = 0.0 if chosen["temperature"] is None else chosen["temperature"]
    top_k, top_p = chosen["top_k"], chosen["top_p"]
    processor = plain_processor(call.get("logits_processor"))
    draw = DrawOptions(temperature, top_k, top_p, never, processor)  # checks them
    if not temperature and (top_k or (top_p is not None and top_p != 1)):
        filters = " and ".join(
            name for name, value in (("top_k", top_k), ("top_p", top_p)) if value is not None
        )
        say_once(
            f"{filters} without a temperature changes nothing, since the most probable token is "
            "taken; give temperature=1.0 to draw among the tokens that are left"
        )
    return draw


def _try_out(adapter: ModelAdapter, prompt: _Prompt, scale: float) -> None:
    """What only the model can answer: whether it begins with these tokens, and minds padding."""
    tokens = torch.full_like(prompt.tokens, prompt.mask_token_id) if scale else prompt.tokens
    adapter.check_tokens(tokens, prompt.attention_mask, prompt.mask_token_id)
    if prompt.padded is not None:
        adapter.check_padding()


def _cropped(
    callback: Callable[[StepInfo], object] | None, prompt: _Prompt
) -> Callable[[StepInfo], object] | None:
    """`callback`, given only the columns that are returned."""
    if callback is None or prompt.end == prompt.tokens.shape[1]:
        return callback
    told, end = callback, prompt.end
    return lambda info: told(
        replace(info, tokens=info.tokens[:, :end], revealed=info.revealed[:, :end])
    )


def _both(
    first: Callable[[StepInfo], object] | None, second: StreamerFeed | None
) -> Callable[[StepInfo], object] | None:
    if first is not None and not callable(first):
        raise InvalidTypeError(f"callback must be callable, got {shown(first)}")
    if first is None or second is None:
        return first or second
    return lambda info: (first(info), second(info))


def own_schedule(model: Any, steps: int | None = None) -> Schedule:
    """The schedule that the model carries, also as text, else linear.

    Args:
        model: perhaps inside wrappers.
        steps: choose among several, as in `schedule_for_steps`.

    Raises:
        MDMError: its attribute `schedule` is text that names none.
    """
    schedule = getattr(unwrap(model), "schedule", None)
    if isinstance(schedule, str):
        try:
            return schedule_for_steps(schedule, steps)
        except MDMError as error:
            raise type(error)(f"model.schedule: {error}") from None
    return schedule if isinstance(schedule, Schedule) else Linear()
