"""transformers models that write text by unmasking: `generate`, a mixin, and an auto class."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from mdm_schedules.integrations.models import ModelAdapter, get_adapter

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError, check_int, shown
from mdm_schedules.hub import find_schedule
from mdm_schedules.registry import get_schedule
from mdm_schedules.sampling import DrawOptions, GenerationOutput, StepInfo, sample
from mdm_schedules.sampling.loop import split_steps
from mdm_schedules.schedules import Linear, Schedule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mdm_schedules.sampling import ConfidencePolicy, OrderPolicy


@torch.no_grad()
def generate(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    schedule: str | Schedule | None = None,
    steps: int | None = None,
    max_new_tokens: int | None = None,
    block_length: int | None = None,
    remasking: str | ConfidencePolicy | OrderPolicy = "low_confidence",
    temperature: float = 0.0,
    mask_token_id: int | None = None,
    seed: int | Sequence[int] | None = None,
    *,
    plan: Any = None,
    top_k: int | None = None,
    top_p: float | None = None,
    suppress_tokens: Sequence[int] = (),
    logits_processor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    infill: bool = True,
    adapter: str | None = None,
    callback: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
    output_history: bool = False,
) -> GenerationOutput:
    """Write `max_new_tokens` tokens after each prompt, and fill the masks inside it, in `steps` forward passes.

    Args:
        model: a masked language model (see `mdm_schedules.integrations.models`).
        input_ids: LongTensor [B, P]; prompts of different lengths are padded on the left. Never changed.
        attention_mask: [B, P], 0 on padding; None if nothing is padded.
        schedule: name, spec string or Schedule; None takes the model's own, else linear.
        steps: forward passes in all, shared among blocks; None is one per token.
        max_new_tokens: masks appended to the prompt; None appends none to a prompt that holds masks.
        block_length: write blocks of so many tokens from left to right; None writes all at once.
        remasking: low_confidence, margin, entropy, random, ancestral, left_to_right, or a policy object.
        temperature: 0 takes the most probable token. Confidence is read before it is applied.
        mask_token_id: None takes it from the model's config.
        seed: None, an int, or one int per row. A sequence draws the same tokens whatever the batch around it.
        plan: tokens per step in place of schedule and steps, [steps] or [B, steps], for each block.
        top_k, top_p, suppress_tokens, logits_processor: see `DrawOptions`.
        infill: False refuses prompts that hold the mask token.
        adapter: name of the model adapter; None chooses by the model.
        callback: called with a `StepInfo` after each pass.
        progress: show a progress bar.
        output_history: keep the tokens after each pass in `.history`.

    Returns:
        GenerationOutput with `.sequences` LongTensor [B, P + max_new_tokens] and `.nfe`, the forward passes spent.

    Raises:
        MDMError: anything wrong with the arguments, before the first pass.
    """
    bound = get_adapter(model, adapter)
    mask_token_id = _mask_token(bound, mask_token_id)
    prompt, own = _check_prompt(bound, input_ids, attention_mask)
    has_masks = bool(((prompt == mask_token_id) & own).any())
    if has_masks and not infill:
        raise InvalidValueError("the prompt holds the mask token, which infill=False refuses; infill=True fills it")
    new = _new_tokens(max_new_tokens, has_masks)
    if new and not bool((own[:, 1:] >= own[:, :-1]).all()):
        raise InvalidValueError(
            "attention_mask must have its zeros on the left, since the answer follows the prompt; "
            "use tokenizer(..., padding=True, padding_side='left')"
        )
    tokens = torch.nn.functional.pad(prompt, (0, new), value=mask_token_id)
    own = torch.nn.functional.pad(own, (0, new), value=True)
    longest = int(own.sum(1).max())
    if bound.max_length is not None and longest > bound.max_length:
        raise InvalidValueError(
            f"prompt and answer take {longest} tokens, but the model has positions for {bound.max_length}; "
            f"shorten the prompt or use max_new_tokens={max(0, bound.max_length - longest + new)}"
        )
    ends = _block_ends(prompt.shape[1], new, block_length)
    lengths = [end - start for start, end in zip([prompt.shape[1], *ends[:-1]], ends, strict=True)]
    if steps is not None:
        steps = check_int("steps", steps, 1, example="steps=16")
    padded = None if bool(own.all()) else own
    with _evaluating(model):
        out = sample(
            lambda state, rows: bound.logits(state, rows, padded),
            tokens,
            mask_token_id=mask_token_id,
            schedule=get_schedule(_own_schedule(model) if schedule is None else schedule),
            steps=None if steps is None else split_steps(steps, lengths) if len(ends) > 1 else steps,
            plan=plan,
            block_ends=ends,
            remasking=remasking,
            draw=DrawOptions(temperature, top_k, top_p, suppress_tokens, logits_processor),
            seed=seed,
            own=own,
            callback=callback,
            progress=progress,
            output_history=output_history,
        )
    return replace(out, prompt_length=prompt.shape[1])


def _own_schedule(model: Any) -> Schedule:
    schedule = getattr(model, "schedule", None)
    return schedule if isinstance(schedule, Schedule) else Linear()


def _mask_token(bound: ModelAdapter, given: int | None) -> int:
    mask = bound.mask_token_id if given is None else given
    if mask is None:
        raise InvalidValueError(
            "the model's config has no mask_token_id; pass mask_token_id=tokenizer.mask_token_id to generate"
        )
    return check_int("mask_token_id", mask, 0, None if bound.vocab_size is None else bound.vocab_size - 1)


def _check_prompt(bound: ModelAdapter, input_ids: Any, attention_mask: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt on the model's device and a bool [B, P] that is False on padding."""
    integers = (torch.long, torch.int32, torch.int16, torch.uint8, torch.int8)
    if not isinstance(input_ids, torch.Tensor) or input_ids.dtype not in integers or input_ids.ndim != 2:
        given = type(input_ids).__name__
        if isinstance(input_ids, torch.Tensor):
            given = f"{input_ids.dtype} of shape {tuple(input_ids.shape)}"
        raise InvalidTypeError(
            f"input_ids must be a LongTensor [batch, length], got {given}; "
            "for example tokenizer(['text'], return_tensors='pt').input_ids"
        )
    if input_ids.shape[0] == 0:
        raise InvalidValueError("input_ids must hold at least one sequence, got an empty batch")
    prompt = input_ids.to(bound.device, torch.long)
    if prompt.numel() and bound.vocab_size is not None:
        low, high = int(prompt.min()), int(prompt.max())
        if low < 0 or high >= bound.vocab_size:
            wrong = low if low < 0 else high
            raise InvalidValueError(f"input_ids must lie in [0, {bound.vocab_size - 1}], got {wrong}")
    if attention_mask is None:
        return prompt, torch.ones_like(prompt, dtype=torch.bool)
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != input_ids.shape:
        shape = getattr(attention_mask, "shape", type(attention_mask).__name__)
        raise InvalidValueError(
            f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, got {shape}"
        )
    mask = attention_mask.to(prompt.device)
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InvalidValueError("attention_mask must hold only 0 and 1")
    return prompt, mask.bool()


def _new_tokens(given: int | None, has_masks: bool) -> int:
    example = "generate(model, input_ids, max_new_tokens=128, steps=16)"
    if given is None and not has_masks:
        raise InvalidValueError(f"max_new_tokens is needed for a prompt without masks; for example {example}")
    new = 0 if given is None else check_int("max_new_tokens", given, 0, 1 << 20, example)
    if not new and not has_masks:
        raise InvalidValueError(
            f"nothing to generate: max_new_tokens is 0 and the prompt has no masks; write {example}"
        )
    return new


def _block_ends(prompt: int, new: int, block_length: int | None) -> list[int]:
    if block_length is None:
        return [prompt + new]
    block_length = check_int("block_length", block_length, 1, example="block_length=32")
    return [*range(prompt + block_length, prompt + new, block_length), prompt + new]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Dropout off for the time of the call."""
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


class MaskedDiffusionMixin:
    """Gives a masked LM class `.schedule`, `.generate()`, and a schedule that is saved and loaded with the model."""

    schedule: Schedule

    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any
    ) -> GenerationOutput:
        """`mdm_schedules.generate` with this model, and its own schedule unless another is given."""
        return generate(self, input_ids, attention_mask, **options)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save the model as transformers does, and its schedule beside it."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        self.schedule.save_pretrained(save_directory)


@lru_cache(maxsize=64)
def _with_mixin(cls: Any) -> Any:
    # under its own name, since transformers writes the class name into config.architectures
    return type(cls.__name__, (MaskedDiffusionMixin, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


class AutoModelForMaskedDiffusion:
    """Loads a masked language model that can `.generate()`."""

    def __init__(self) -> None:
        raise InvalidTypeError("use AutoModelForMaskedDiffusion.from_pretrained(...) or .from_model(model, schedule)")

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *args: Any, schedule: str | Schedule | None = None, **kwargs: Any
    ) -> Any:
        """A masked LM with a schedule.

        Args:
            path: folder or Hub id, as `transformers.AutoModelForMaskedLM.from_pretrained` takes it.
            schedule: name, spec, Hub id or Schedule; None takes the one that the folder or repository of the model
                carries, and logs once that it does, else linear.
            *args: passed on to transformers.
            **kwargs: passed on to transformers (dtype, device_map, revision, trust_remote_code, ...).

        Raises:
            InvalidTypeError: the model there is no masked LM.
        """
        from transformers import AutoModelForMaskedLM

        chosen = _carried(path, kwargs) if schedule is None else get_schedule(schedule)
        try:
            model = AutoModelForMaskedLM.from_pretrained(path, *args, **kwargs)
        except ValueError as error:
            if "for this kind of AutoModel" not in str(error):
                raise
            raise InvalidTypeError(f"{path} holds no masked language model: {str(error).splitlines()[0]}") from error
        model = model[0] if isinstance(model, tuple) else model
        if getattr(model.config, "mask_token_id", None) is None:
            model.config.mask_token_id = _tokenizer_mask(path, kwargs)
        return cls.from_model(model, chosen)

    @classmethod
    def from_model(cls, model: Any, schedule: str | Schedule = "linear") -> Any:
        """Give a loaded model a schedule and `.generate()`, in place; it stays an instance of its class."""
        if not isinstance(model, MaskedDiffusionMixin):
            get_adapter(model)
            model.__class__ = _with_mixin(type(model))  # type: ignore[arg-type]
        model.schedule = get_schedule(schedule)
        return model


_FILES = ("revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder")


def _carried(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> Schedule:
    """The schedule beside the model; linear if there is none."""
    found = find_schedule(path, **{key: kwargs[key] for key in _FILES if kwargs.get(key) is not None})
    if found is None:
        return Linear()
    _say_once(f"{path} carries the schedule {shown(found)}, which is used; schedule='linear' gives the plain one")
    return found


@cache
def _say_once(text: str) -> None:
    logging.getLogger("mdm_schedules").warning(text)


def _tokenizer_mask(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> int | None:
    """The mask token of the tokenizer beside the model; None if there is no tokenizer."""
    from transformers import AutoTokenizer

    known = {key: kwargs[key] for key in (*_FILES, "trust_remote_code") if key in kwargs}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **known)
    except MDMError:
        raise
    except Exception:
        return None  # generate then asks for mask_token_id
    return tokenizer.mask_token_id  # type: ignore[no-any-return]
