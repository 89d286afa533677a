"""Identifies the inputs of a job: equal fingerprints and prompts give the same tokens."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from mdm_schedules._version import __version__
from mdm_schedules.models.wrappers import unwrap
from mdm_schedules.schedules import Schedule

_TENSORS = 32  # weights that are sampled
_VALUES = 64  # values sampled from each
_APART = ("schedule", "seed", "callback")  # recorded elsewhere, or without effect on the tokens
# Config entries that say where a model came from, not what it computes; the dtype is taken from the
# weights, since configs of equal models name it differently.
_NAMES_OF_PLACES = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")


def fingerprint(
    model: Any,
    schedule: Schedule,
    options: dict[str, Any],
    tokenizer: Any,
    precision: str,
    sharded: bool,
) -> dict[str, Any]:
    """Return everything that the tokens depend on, except the prompts, as JSON.

    Args:
        model: recorded by its class, config, size and a sample of its weights.
        schedule: recorded by its spec.
        options: the merged options of `generate`.
        tokenizer: recorded by its vocabulary; None if there is none.
        precision: mixed precision of the accelerate config.
        sharded: True if no process holds whole weights; the weights are then not sampled.
    """
    told = {name: _plain(value) for name, value in sorted(options.items()) if name not in _APART}
    return {
        "seed": options["seed"],
        "model": _model(model, sharded),
        "schedule": schedule.spec,
        "options": {name: value for name, value in told.items() if value is not None},
        "tokenizer": _tokenizer(tokenizer),
        "mixed_precision": precision,
        "versions": {"mdm_schedules": __version__, "torch": torch.__version__},
    }


def _name(value: Any) -> str:
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as JSON.

    An object is represented by its repr if that is the same in every process, else by its class.
    """
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        # A subclass (a LogitsProcessorList) is named too: equal items may act differently in it.
        return [_name(value)] * (type(value) not in (list, tuple)) + [
            _plain(item) for item in value
        ]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    # An address differs in every process, and would make equal jobs look unlike.
    return _name(value) if callable(value) or " at 0x" in repr(value) else repr(value)


def _model(model: Any, sharded: bool) -> dict[str, Any]:
    model = unwrap(model)
    told = {"class": _name(model)}
    if hasattr(model, "config"):
        config = model.config.to_dict() if hasattr(model.config, "to_dict") else vars(model.config)
        config = {
            key: _plain(value) for key, value in config.items() if key not in _NAMES_OF_PLACES
        }
        told["config"] = _hash(json.dumps(config, sort_keys=True).encode())
    if isinstance(model, torch.nn.Module):
        state = {} if sharded else model.state_dict()
        weights = [
            (name, value) for name, value in state.items() if isinstance(value, torch.Tensor)
        ]
        parameter = next(model.parameters(), None)
        if parameter is not None:
            told["dtype"], told["device"] = str(parameter.dtype), parameter.device.type
        if weights:
            told["weights"] = str(sum(value.numel() for _, value in weights))
            # A sample spread over all layers tells another checkpoint or a fine-tuned one, where a
            # hash of all weights would have to read every byte.
            every = weights[:: -(-len(weights) // _TENSORS)]
            told["sample"] = _hash(
                b"".join(name.encode() + _sample(value) for name, value in every)
            )
    return told


def _sample(value: torch.Tensor) -> bytes:
    if value.device.type == "meta" or hasattr(value, "to_local"):  # offloaded, or sharded
        return b""
    flat = value.detach().flatten()[:: max(1, value.numel() // _VALUES)]
    return flat.double().cpu().numpy().tobytes()


def _tokenizer(tokenizer: Any) -> str | None:
    if tokenizer is None:
        return None
    words = sorted(tokenizer.get_vocab().items()) if hasattr(tokenizer, "get_vocab") else []
    return f"{len(words)} entries {_hash(json.dumps(words).encode())}"
