"""How a released family becomes a native model: names of weights, and of config values.

A family is one table (see `families`). Nothing here reads a weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidValueError

# what transformers' own Qwen and Llama configs call the values, and most families too
COMMON = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "tie_word_embeddings",
    "attention_dropout",
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
]
# kept whatever the family calls its own values
ALWAYS = ("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config")
SIZES = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "moe_intermediate_size",
    "num_experts",
    "n_routed_experts",
    "num_experts_per_tok",
]
NEEDED = SIZES[:5]
# more would be built one by one before the weights are looked at; no model has a tenth of it
MOST = {"num_hidden_layers": 1 << 12, "num_experts": 1 << 13, "n_routed_experts": 1 << 13}
ROPE_KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")

Piece = tuple[str, int | None]  # a native weight, and which of several parts of the released one


@dataclass(frozen=True)
class Family:
    """One released family.

    Attributes:
        name: as users know it.
        model_types: in its config.json.
        architectures: class names of its code, in its config.json.
        native: model type of the native model.
        keys: native config value -> the family's name for it, or a function of its config.
        defaults: what its code takes where config.json leaves a key out.
        allowed: its config key -> the values of it that the native model has; others are refused.
        fixed: native config values that are the same for all its models.
        names: (released, native) names of modules, {} for a number; others are the same.
        fused: (released module, native modules) whose rows lie one after another.
        mask_token_id: of the released models.
        mask_vocabularies: the vocabulary sizes by which a model is known to be a released one.
        unset_masks: values in its configs that stand for "not set".
    """

    name: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    native: str
    keys: Mapping[str, str | Callable[[Mapping[str, Any]], Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    allowed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[tuple[str, str], ...] = ()
    fused: tuple[str, tuple[str, ...]] | None = None
    mask_token_id: int | None = None
    mask_vocabularies: tuple[int, ...] = ()
    unset_masks: tuple[int, ...] = ()

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether config.json is of this family, by model type and the class that it names."""
        if config.get("model_type") not in self.model_types:
            return False
        named = config.get("architectures") or list(self.architectures)
        return isinstance(named, list) and any(name in self.architectures for name in named)

    def native_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The native model's config values for a released `config`.

        Raises:
            InvalidValueError: a value that the native model has not; the message names it.
        """
        full = {**self.defaults, **_flat_rope(config)}
        for key, allowed in self.allowed.items():
            if full.get(key) not in allowed:
                raise self._refused(key, full.get(key), allowed)
        answer = {key: config[key] for key in ALWAYS if config.get(key) is not None}
        for key, source in self.keys.items():
            try:
                value = source(full) if callable(source) else full.get(source)
            except (KeyError, TypeError, ZeroDivisionError) as error:
                raise InvalidValueError(
                    f"the config of this {self.name} model gives no {key}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if value is not None:
                answer[key] = value
        for key in SIZES:
            most = MOST.get(key, 1 << 31)
            if (key in answer or key in NEEDED) and not _is_size(answer.get(key), most):
                wanted = f"an integer from 1 to {most}"
                raise self._refused(self._source(key), answer.get(key), (wanted,))
        pad = answer.get("pad_token_id")
        if pad is not None and not 0 <= pad < answer["vocab_size"]:
            answer.pop("pad_token_id")  # the answer for padding is never read
        self._check_rope(answer)
        dtype = config.get("dtype") or config.get("torch_dtype")
        if dtype is not None:
            answer["dtype"] = dtype
        return {**answer, **self.fixed, "use_cache": False, "released": dict(config)}

    def _check_rope(self, answer: dict[str, Any]) -> None:
        scaling = answer.get("rope_scaling")
        if scaling is not None:
            kind = scaling.get("rope_type", scaling.get("type")) if hasattr(scaling, "get") else ""
            if kind not in ROPE_KINDS:
                raise self._refused("rope_scaling", scaling, ROPE_KINDS)

    def _source(self, key: str) -> str:
        source = self.keys.get(key, key)
        return source if isinstance(source, str) else key

    def _refused(self, key: str, value: Any, allowed: Sequence[Any]) -> InvalidValueError:
        choices = " or ".join(x if isinstance(x, str) else repr(x) for x in allowed)
        return InvalidValueError(
            f"{key}={shown(value)} in the config of this {self.name} model is not what the native "
            f"model does ({choices}); load it with its own code instead: trust_remote_code=True"
        )

    def released_config(self, native: Mapping[str, Any]) -> dict[str, Any]:
        """config.json of the released form for a native model's config values."""
        known = native.get("released") or {}
        answer = {**self.defaults, **{k: v[0] for k, v in self.allowed.items()}, **known}
        for key, source in self.keys.items():
            if isinstance(source, str) and key in native:
                answer[source] = native[key]
        for key in (*ALWAYS, "mask_token_id"):
            if native.get(key) is not None:
                answer[key] = native[key]
        answer.setdefault("model_type", self.model_types[0])
        answer["architectures"] = list(known.get("architectures") or self.architectures[:1])
        return answer

    def mask(self, native: Mapping[str, Any]) -> int | None:
        """The mask token by config.json, else the known one if this is a released model."""
        own = (native.get("released") or {}).get(
            "mask_token_id", self.defaults.get("mask_token_id")
        )
        if own is not None and own not in self.unset_masks:
            return int(own)
        return self.mask_token_id if native.get("vocab_size") in self.mask_vocabularies else None

    @cached_property
    def _to_native(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(released), native) for released, native in self.names]

    @cached_property
    def _to_released(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(native), released) for released, native in self.names]

    def native_names(self, name: str) -> list[Piece]:
        """The native weights that lie in the released weight `name`."""
        if self.fused is not None:
            found = _pattern(self.fused[0]).fullmatch(name)
            if found:
                return [(_filled(part, found), i) for i, part in enumerate(self.fused[1])]
        return [(_renamed(name, self._to_native), None)]

    def released_name(self, name: str) -> Piece:
        """The released weight in which the native weight `name` lies, and which part of it."""
        for i, part in enumerate(self.fused[1] if self.fused else ()):
            found = _pattern(part).fullmatch(name)
            if found and self.fused:
                return _filled(self.fused[0], found), i
        return _renamed(name, self._to_released), None

    def fused_rows(self, native: Mapping[str, Any]) -> list[int]:
        """Rows of each part of a fused weight: queries, keys, values."""
        head = native.get("head_dim") or native["hidden_size"] // native["num_attention_heads"]
        keys = native["num_key_value_heads"] * head
        return [native["num_attention_heads"] * head, keys, keys]


def _is_size(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def _flat_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary values by their names in transformers 4; 5 keeps them in `rope_parameters`."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return dict(config)
    kept = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    rest = {key: value for key, value in rope.items() if key not in kept}
    plain = rest.get("rope_type", rest.get("type", "default")) == "default"
    return {**config, **kept, "rope_scaling": None if plain else rest}


def _pattern(template: str) -> re.Pattern[str]:
    """Matches the module `template`, its numbers and what follows it."""
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d+)") + r"(\.\w+)?")


def _filled(template: str, found: re.Match[str]) -> str:
    *numbers, rest = found.groups()
    return template.format(*numbers) + (rest or "")


def _renamed(name: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in table:
        found = pattern.fullmatch(name)
        if found:
            return _filled(template, found)
    return name
