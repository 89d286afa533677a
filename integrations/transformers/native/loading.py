"""`load_native`: released weights into a native model, by transformers' own loading.

The weights are mapped from their files, not read: transformers gets views under the native names,
and casts, quantizes, shards and places them as always. No second copy is made, and no code of the
repository runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import FormatError, InvalidValueError, StorageError
from mdm_schedules.hub.client import DOWNLOAD
from mdm_schedules.integrations.transformers.native.checkpoint import (
    Checkpoint,
    fetched,
    read_json,
    some,
)
from mdm_schedules.integrations.transformers.native.families import (
    FAMILIES,
    explain_unknown,
    family_of,
)
from mdm_schedules.integrations.transformers.native.family import Family
from mdm_schedules.integrations.transformers.native.modeling import NATIVE
from mdm_schedules.integrations.transformers.native.tokenizer import tokenizer_mask

try:
    from transformers.initialization import no_init_weights
except ImportError:  # transformers 4
    from transformers.modeling_utils import (  # type: ignore[attr-defined, no-redef]
        no_init_weights,
    )

IGNORED = ("rotary_emb.inv_freq",)  # made from the config


def released_config(path: str | os.PathLike[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a folder or repository, read as data."""
    file = fetched(path, "config.json", options)
    if file is None:
        raise StorageError(f"{path} holds no model, for it has no config.json")
    return read_json(file)


def is_released(path: str | os.PathLike[str], options: Mapping[str, Any]) -> bool:
    """Whether the model at `path` is of a family that is loaded natively.

    Raises:
        InvalidValueError: its model type is a family's, but its class is of another code.
    """
    file = fetched(path, "config.json", options)
    config = {} if file is None else read_json(file)
    if family_of(config) is not None:
        return True
    if any(config.get("model_type") in family.model_types for family in FAMILIES):
        raise explain_unknown(config)
    return False


def native_config(
    path: str | os.PathLike[str], options: Mapping[str, Any], released: dict[str, Any]
) -> tuple[Family, Any]:
    """The family of `released`, and its native config with the mask token filled in.

    Raises:
        InvalidValueError: no family, or a config value that the native model has not.
    """
    family = family_of(released)
    if family is None:
        raise explain_unknown(released)
    values = family.native_config(released)
    values["mask_token_id"] = _mask(path, options, family, values)
    if not os.path.isdir(path):
        values["base_model"] = os.fspath(path)
    values["architectures"] = [NATIVE[family.native][1].__name__]
    config_class = NATIVE[family.native][0]
    try:
        # Everything that transformers itself finds wrong with the values becomes one clear error.
        config = config_class(**values)
    except Exception as error:  # the checks of transformers and huggingface_hub, of any class
        raise InvalidValueError(
            f"the config of this {family.name} model cannot be used: {error}"
        ) from error
    return family, config


def _mask(path: Any, options: Mapping[str, Any], family: Family, values: dict[str, Any]) -> int:
    given = options.get("mask_token_id")
    ours, theirs = family.mask(values), tokenizer_mask(path, options)
    if given is not None:
        return int(given)
    if ours is not None and theirs is not None and ours != theirs:
        raise InvalidValueError(
            f"{path} has two mask tokens: {theirs} by its tokenizer, {ours} by its config or as "
            f"the released {family.name}; say which: from_pretrained(..., mask_token_id={theirs})"
        )
    mask = theirs if theirs is not None else ours
    if mask is not None and not 0 <= mask < values["vocab_size"]:
        raise InvalidValueError(
            f"the mask token {mask} of {path} is outside of its vocabulary of "
            f"{values['vocab_size']}; give from_pretrained(..., mask_token_id=...)"
        )
    return mask  # type: ignore[return-value]


def load_native(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """A native model with the released weights at `path`.

    Args:
        path: folder or Hub id of a released model; safetensors, one file or shards.
        **kwargs: as `from_pretrained` of transformers takes them (dtype, device_map,
            quantization_config, attn_implementation, tp_plan, revision, ...); config values by
            their native names, and mask_token_id.

    Raises:
        InvalidValueError: no family that is known, or a config value that cannot be mapped.
        StorageError: files that are not there.
        FormatError: files that are torn, weights that are missing, unknown or misshapen.
    """
    kwargs.pop("trust_remote_code", None)
    released = released_config(path, kwargs)
    family, config = native_config(path, kwargs, released)
    # As in transformers, a keyword that the config has is a value for it.
    for key in [key for key in kwargs if key in config.to_dict() or hasattr(type(config), key)]:
        if key not in ("dtype", "torch_dtype", "quantization_config"):
            setattr(config, key, kwargs.pop(key))
    files = Checkpoint(path, kwargs)
    state = native_state(family, config, files)
    options = {key: value for key, value in kwargs.items() if key not in (*DOWNLOAD, "variant")}
    model_class = NATIVE[family.native][1]
    model = model_class.from_pretrained(None, config=config, state_dict=state, **options)
    loaded = model[0] if isinstance(model, tuple) else model
    loaded.config.name_or_path = os.fspath(path)
    return model


def native_state(family: Family, config: Any, files: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights under their native names, mapped from the files and not read."""
    names = check_weights(family, config, files)
    from safetensors import safe_open

    rows = family.fused_rows(config.to_dict())
    state: dict[str, torch.Tensor] = {}
    opened: dict[Any, Any] = {}
    for released in names:
        file = files[released].file
        if file not in opened:
            opened[file] = safe_open(str(file), framework="pt", device="cpu")
        # Mapped from the file: no copy is made before the model takes it.
        weight = opened[file].get_tensor(released)
        parts = family.native_names(released)
        pieces = [weight] if len(parts) == 1 else list(weight.split(rows, 0))
        state |= {name: piece for (name, _), piece in zip(parts, pieces, strict=True)}
    return state


def check_weights(family: Family, config: Any, files: Checkpoint) -> list[str]:
    """The released names that the native model takes, all of them there and of the right shape.

    Raises:
        FormatError: names what is missing, unknown or misshapen.
        InvalidValueError: transformers cannot build the model that the config describes.
    """
    if config.num_hidden_layers > len(files):  # else building it takes long
        raise FormatError(
            f"the weights do not fit their config as a {family.name} model: it tells of "
            f"{config.num_hidden_layers} layers, but the files hold {len(files)} weights in all"
        )
    wanted = expected_shapes(config)
    tied = bool(config.tie_word_embeddings)
    rows = family.fused_rows(config.to_dict())
    found: dict[str, tuple[int, ...]] = {}
    taken, unknown = [], []
    for released, weight in files.items():
        if released.endswith(IGNORED):
            continue
        parts = family.native_names(released)
        if tied and parts[0][0] == "lm_head.weight":
            continue
        if any(name not in wanted for name, _ in parts):
            unknown.append(released)
            continue
        taken.append(released)
        if len(parts) == 1:
            found[parts[0][0]] = weight.shape
        elif weight.shape[:1] == (sum(rows),):
            for (name, _), count in zip(parts, rows, strict=True):
                found[name] = (count, *weight.shape[1:])
        else:
            found |= {name: weight.shape for name, _ in parts}
    missing = [family.released_name(name)[0] for name in wanted if name not in found]
    if tied:
        missing = [name for name in missing if name != family.released_name("lm_head.weight")[0]]
    wrong = [
        f"{family.released_name(name)[0]} {list(shape)} instead of {list(wanted[name])}"
        for name, shape in found.items()
        if shape != wanted[name]
    ]
    # All faults in one message, a few names of each kind.
    told = (("missing", missing), ("unknown", unknown), ("misshapen", wrong))
    problems = [f"{kind}: {some(list(dict.fromkeys(x)))}" for kind, x in told if x]
    if problems:
        raise FormatError(
            f"the weights do not fit their config as a {family.name} model; {'; '.join(problems)}"
        )
    return taken


def expected_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Shape of each weight in the files of a native model; experts one by one."""
    model_class = NATIVE[config.model_type][1]
    try:
        with torch.device("meta"), no_init_weights():
            model = model_class(config)
    except Exception as error:  # transformers checks little, so anything can go wrong
        raise InvalidValueError(
            f"no model can be built from this config: {type(error).__name__}: {shown(str(error))}"
        ) from error
    answer: dict[str, tuple[int, ...]] = {}
    for name, weight in model.state_dict().items():
        shape = tuple(weight.shape)
        stem, _, kind = name.rpartition(".")
        # transformers 5 fuses the experts [E, ...]; the files have them one by one.
        if kind == "gate_up_proj":
            for i in range(shape[0]):
                answer[f"{stem}.{i}.gate_proj.weight"] = (shape[1] // 2, shape[2])
                answer[f"{stem}.{i}.up_proj.weight"] = (shape[1] // 2, shape[2])
        elif kind == "down_proj":
            answer |= {f"{stem}.{i}.down_proj.weight": shape[1:] for i in range(shape[0])}
        else:
            answer[name] = shape
    return answer
