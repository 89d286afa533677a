"""What a job needs to know before it starts: options, processes, precision, which prompts may share a batch."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from mdm_schedules.integrations.accelerate.prompts import Encoder
from mdm_schedules.integrations.models import ModelAdapter, get_adapter
from mdm_schedules.integrations.transformers.config import DEFAULTS, merge_options
from mdm_schedules.integrations.transformers.generation import own_schedule
from mdm_schedules.integrations.transformers.inputs import check_mask_token

from mdm_schedules.errors import DistributedError, InvalidTypeError, InvalidValueError, check_int, did_you_mean
from mdm_schedules.registry import schedule_for_steps

_ALSO = ("logits_processor", "callback")  # options of `generate` that no config holds


def read_options(
    model: Any, tokenizer: Any, adapter: str | None, config: Any, given: dict[str, Any]
) -> tuple[dict[str, Any], ModelAdapter]:
    """The options of `generate` with nothing left to a config, and the adapter."""
    for name in given:
        if name not in DEFAULTS and name not in _ALSO:
            raise InvalidTypeError(
                f"generate_distributed has no option {name!r}.{did_you_mean(name, [*DEFAULTS, *_ALSO])}"
            )
    options = merge_options(given, config, getattr(model, "generation_config", None))
    bound = get_adapter(model, adapter)
    chosen = own_schedule(model) if options["schedule"] is None else options["schedule"]
    options["schedule"] = schedule_for_steps(chosen, options["steps"])
    if options["seed"] is not None:
        options["seed"] = check_int("seed", options["seed"], -(2**63), 2**64 - 1, "seed=0")
    if options["mask_token_id"] is None and bound.mask_token_id is None:
        options["mask_token_id"] = getattr(tokenizer, "mask_token_id", None)
    options["mask_token_id"] = check_mask_token(bound, options["mask_token_id"])
    new = options["max_new_tokens"]
    options["max_new_tokens"] = None if new is None else check_int("max_new_tokens", new, 0, 1 << 20)
    options["num_return_sequences"] = check_int("num_return_sequences", options["num_return_sequences"], 1, 1 << 20)
    if options["plan"] is not None and torch.as_tensor(options["plan"]).ndim != 1:
        raise InvalidValueError("plan must be one list of tokens per step for all prompts, such as plan=[1, 2, 5]")
    return options, bound


def unwrapped(model: Any) -> Any:
    """Without the wrapper that serves only gradients; a wrapper that gathers weights stays."""
    wrappers = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    return model.module if isinstance(model, wrappers) else model


def process_state(bound: ModelAdapter) -> PartialState:
    accelerated = torch.cuda.is_available() or (hasattr(torch, "accelerator") and torch.accelerator.is_available())
    state = PartialState(cpu=bound.device.type == "cpu" if bound.device is not None else not accelerated)
    world = int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes == 1 and world > 1:
        raise DistributedError(
            f"this is one of {world} processes, but accelerate takes it for the only one; on machines without a GPU "
            "make PartialState(cpu=True), or Accelerator(cpu=True), before anything else of accelerate"
        )
    return state


def mixed_precision() -> str:
    """Mixed precision of the accelerate config: "no", "fp16", "bf16", "fp8"."""
    if AcceleratorState._shared_state:
        return str(AcceleratorState().mixed_precision)
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def autocast(bound: ModelAdapter, precision: str) -> AbstractContextManager[Any]:
    types = {"fp16": torch.float16, "bf16": torch.bfloat16}
    if precision not in types:  # a model prepared for fp8 sees to it by itself
        return nullcontext()
    return torch.autocast((bound.device or torch.device("cpu")).type, types[precision])


def grouping(bound: ModelAdapter, batch_size: int) -> Any:
    """Which lengths may share a batch: all, or those equal (modulo the model's block)."""
    block = bound.block_length
    if batch_size == 1:
        return lambda length: 0
    try:
        with torch.no_grad():
            bound.check_padding()
    except InvalidValueError:
        return lambda length: length
    return (lambda length: 0) if block is None else (lambda length: length % block)


def make_encoder(bound: ModelAdapter, tokenizer: Any, special: bool, options: dict[str, Any], on_error: str) -> Encoder:
    return Encoder(
        tokenizer,
        special,
        bound.vocab_size,
        bound.max_length,
        options["max_new_tokens"] or 0,
        options["mask_token_id"],
        options["infill"],
        on_error == "skip",
    )
