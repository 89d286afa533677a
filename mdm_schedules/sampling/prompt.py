"""Checks of what `generate` is given, all before the first forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mdm_schedules.checks import check_int, say_once
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.models import ModelAdapter
from mdm_schedules.models.wrappers import unwrap
from mdm_schedules.sampling.names import unknown_option
from mdm_schedules.sampling.options import OPTIONS

_INTEGERS = (torch.long, torch.int32, torch.int16, torch.uint8, torch.int8)
#: what transformers' own generate hands to a custom function and what has no meaning without a
#: cache
_OF_TRANSFORMERS = (
    "cache_position",
    "logits_to_keep",
    "output_attentions",
    "output_hidden_states",
    "past_key_values",
    "position_ids",
    "return_dict_in_generate",
    "synced_gpus",
    "use_cache",
)
_PROMPT = ("model", "input_ids", "attention_mask")
_LENGTH_CRITERIA = ("MaxLengthCriteria", "EosTokenCriteria")
_WARPERS = ("TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper")


def check_mask_token(adapter: ModelAdapter, given: int | None) -> int:
    """The mask token, given or the model's own."""
    mask = adapter.mask_token_id if given is None else given
    if mask is None:
        raise InvalidValueError(
            "the model's config has no mask_token_id; pass mask_token_id=tokenizer.mask_token_id "
            "to generate"
        )
    return check_int(
        "mask_token_id", mask, 0, None if adapter.vocab_size is None else adapter.vocab_size - 1
    )


def encoded(input_ids: Any, attention_mask: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Texts, and what a tokenizer returned, as token ids with their mask; all else as it is."""
    if isinstance(input_ids, Mapping) and "input_ids" in input_ids:
        check_rest({n: v for n, v in input_ids.items() if n not in ("input_ids", "attention_mask")})
        if attention_mask is None:
            attention_mask = input_ids.get("attention_mask")
        return encoded(input_ids["input_ids"], attention_mask, tokenizer)
    texts = [input_ids] if isinstance(input_ids, str) else input_ids
    if not isinstance(texts, list | tuple) or not any(isinstance(text, str) for text in texts):
        return input_ids, attention_mask
    if not all(isinstance(text, str) for text in texts):
        raise InvalidTypeError("prompts must all be texts, or all be token ids, got some of each")
    if not callable(tokenizer):
        raise InvalidTypeError(
            "prompts that are text need the model's tokenizer: generate(model, texts, "
            "tokenizer=tokenizer, max_new_tokens=128)"
        )
    if attention_mask is not None:
        raise InvalidValueError("texts have no attention_mask; it comes from their encoding")
    rows = tokenizer(list(texts)).input_ids
    return left_pad(rows, getattr(tokenizer, "pad_token_id", None) or 0)


def warn_of_padding(adapter: ModelAdapter, prompt: torch.Tensor, mask_token_id: int) -> None:
    """Say once that rows begin with padding, where no attention mask says so.

    One pad token at the start of every row may be meant (some models begin texts with it).
    """
    config = getattr(unwrap(getattr(adapter, "model", None)), "config", None)
    pad = getattr(config, "pad_token_id", None)
    if not isinstance(pad, int) or pad == mask_token_id or not prompt.numel():
        return
    leading = (prompt == pad).long().cumprod(1).sum(1)
    least, most = int(leading.min()), int(leading.max())
    if most > 1 or least < most:
        say_once(
            f"prompts begin with up to {most} pad tokens (id {pad}), and there is no "
            "attention_mask, so that the model reads them as text; pass that of the tokenizer: "
            "generate(model, **tokenizer(texts, return_tensors='pt', padding=True, "
            "padding_side='left'), ...)"
        )


def check_prompt(
    adapter: ModelAdapter, input_ids: Any, attention_mask: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt on the model's device and a bool [B, P] that is False on padding."""
    if (
        not isinstance(input_ids, torch.Tensor)
        or input_ids.dtype not in _INTEGERS
        or input_ids.ndim != 2
    ):
        given = type(input_ids).__name__
        remedy = "for example tokenizer(['text'], return_tensors='pt').input_ids"
        if isinstance(input_ids, torch.Tensor):
            given = f"{input_ids.dtype} of shape {tuple(input_ids.shape)}"
            if input_ids.ndim == 1:
                remedy = "a single sequence is input_ids[None]"
            elif input_ids.ndim == 3:
                remedy = (
                    "drop the first or last dimension, or pass token ids in place of embeddings"
                )
            elif input_ids.dtype not in _INTEGERS:
                remedy = "token ids are integers: input_ids.long()"
        elif isinstance(input_ids, list | tuple):
            remedy = "torch.tensor(input_ids) makes one, of rows of equal length"
        elif hasattr(input_ids, "__array__"):
            remedy = "torch.as_tensor(input_ids) makes one"
        elif callable(input_ids):
            remedy = f"the order is generate(model, input_ids, ...); {remedy}"
        raise InvalidTypeError(
            f"input_ids must be a LongTensor [batch, length], got {given}; {remedy}"
        )
    if input_ids.shape[0] == 0:
        raise InvalidValueError("input_ids must hold at least one sequence, got an empty batch")
    place = torch.device(adapter.device or input_ids.device)
    if place.type == "meta" or input_ids.is_meta:
        raise InvalidValueError(
            "the model or the prompt is on the meta device, without values; load it on a real one, "
            "such as model.to_empty(device='cpu') and load_state_dict, or from_pretrained(...)"
        )
    for name, tensor in (("input_ids", input_ids), ("attention_mask", attention_mask)):
        if isinstance(tensor, torch.Tensor) and tensor.layout != torch.strided:
            raise InvalidTypeError(f"{name} must be a dense tensor, got {tensor.layout}")
    prompt = input_ids.to(place, torch.long)
    if prompt.numel() and adapter.vocab_size is not None:
        low, high = int(prompt.min()), int(prompt.max())
        if low < 0 or high >= adapter.vocab_size:
            wrong = low if low < 0 else high
            raise InvalidValueError(
                f"input_ids must lie in [0, {adapter.vocab_size - 1}], got {wrong}"
            )
    if attention_mask is None:
        return prompt, torch.ones_like(prompt, dtype=torch.bool)
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != input_ids.shape:
        shape = getattr(attention_mask, "shape", type(attention_mask).__name__)
        raise InvalidValueError(
            f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, got "
            f"{shape}"
        )
    mask = attention_mask.to(prompt.device)
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InvalidValueError("attention_mask must hold only 0 and 1")
    return prompt, mask.bool()


def check_new_tokens(given: int | None, has_masks: bool) -> int:
    """How many masks to append."""
    example = "generate(model, input_ids, max_new_tokens=128, steps=16)"
    if given is None and not has_masks:
        raise InvalidValueError(
            f"max_new_tokens is needed for a prompt without masks; for example {example}"
        )
    new = 0 if given is None else check_int("max_new_tokens", given, 0, 1 << 20, example)
    if not new and not has_masks:
        raise InvalidValueError(
            f"nothing to generate: max_new_tokens is 0 and the prompt has no masks; write {example}"
        )
    return new


def block_ends(
    adapter: ModelAdapter, attention_mask: torch.Tensor, new: int, block_length: int | None
) -> list[int]:
    """Columns where the blocks of the answer end.

    `attention_mask` is that of the prompt, bool [B, P].
    """
    prompt = attention_mask.shape[1]
    if block_length is not None:
        block_length = check_int("block_length", block_length, 1, example="block_length=32")
    offset = 0  # tokens of the answer's first block that the prompt takes
    if adapter.block_length is not None:
        if block_length not in (None, adapter.block_length):
            raise InvalidValueError(
                f"this model attends by blocks of {adapter.block_length}, got {block_length}"
            )
        block_length = adapter.block_length
        offsets = (attention_mask.sum(1) % block_length).unique().tolist()
        if len(offsets) > 1:
            raise InvalidValueError(
                "prompts of one batch must have the same length modulo the model's block of "
                f"{block_length}, got "
                f"remainders {offsets}; sort them by length % {block_length}, or generate for one "
                "at a time"
            )
        offset = offsets[0]
    if block_length is None:
        return [prompt + new]
    return [*range(prompt - offset + block_length, prompt + new, block_length), prompt + new]


def check_suppressed(adapter: ModelAdapter, given: Sequence[int], mask_token_id: int) -> None:
    """Whether anything is left to draw."""
    hidden = {mask_token_id, *given}
    if adapter.vocab_size is not None and len(hidden) >= adapter.vocab_size:
        raise InvalidValueError(
            "suppress_tokens leaves nothing to draw: with the mask token, and what the tokenizer "
            f"rules out, it hides all {adapter.vocab_size} tokens"
        )


def check_rest(rest: Mapping[str, Any]) -> None:
    """Refuse keywords that nobody knows; let pass what transformers adds by itself."""
    for name, value in rest.items():
        if name == "token_type_ids":  # tokenizers of BERT return zeros
            if isinstance(value, torch.Tensor) and not bool((value == 0).all()):
                raise InvalidValueError("token_type_ids other than zeros are not supported")
        elif name == "stopping_criteria":
            for criterion in value or ():
                if type(criterion).__name__ not in _LENGTH_CRITERIA:
                    raise InvalidTypeError(
                        f"stopping_criteria {type(criterion).__name__} does not fit writing in any "
                        "order; "
                        "use eos_token_id=..., or callback=..."
                    )
        elif name not in _OF_TRANSFORMERS:
            raise unknown_option(name, "generate has no option", (*OPTIONS, *_PROMPT))


def unexpanded(
    input_ids: Any, attention_mask: Any, config: Any, rest: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The prompts once each, where transformers' generate repeated them for num_return_sequences.

    transformers repeats the prompts for every custom function, and hands over `config`, by which we
    repeat them ourselves.
    """
    copies = getattr(config, "num_return_sequences", None) or 1
    if (
        copies == 1
        or not {"stopping_criteria", "use_cache"} <= rest.keys()
        or not isinstance(input_ids, torch.Tensor)
    ):
        return input_ids, attention_mask
    return input_ids[::copies], None if attention_mask is None else attention_mask[::copies]


def plain_processor(processor: Any) -> Any:
    """Without transformers' own warpers, which we get as temperature, top_k and top_p.

    None if nothing is left.
    """
    if not isinstance(processor, list):
        return processor
    kept = type(processor)(one for one in processor if type(one).__name__ not in _WARPERS)
    if kept and not callable(kept):
        raise InvalidTypeError(
            "logits_processor must be a function or a transformers LogitsProcessorList, got a list"
        )
    return kept or None


def left_pad(rows: Sequence[Any], pad_token_id: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of different lengths as one batch, padded on the left.

    By hand, since many tokenizers of these models have no pad token, or pad on the right.

    Args:
        rows: token ids, as lists or arrays.
        pad_token_id: what stands in the padding.

    Returns:
        LongTensor [B, L], and a bool [B, L] that is False on padding.
    """
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        if len(row):
            ids[index, width - len(row) :] = torch.as_tensor(row, dtype=torch.long)
            attention_mask[index, width - len(row) :] = True
    return ids, attention_mask
