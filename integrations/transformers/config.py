"""A GenerationConfig with the options of masked diffusion, saved and loaded as generation_config.json."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from mdm_schedules.errors import InvalidTypeError, did_you_mean
from mdm_schedules.registry import schedule_for
from mdm_schedules.schedules import Schedule

#: the options of `generate` that a config can hold, with the values that hold when nobody gives one
DEFAULTS: dict[str, Any] = {
    "schedule": None,
    "steps": None,
    "max_new_tokens": None,
    "block_length": None,
    "remasking": "low_confidence",
    "temperature": 0.0,
    "mask_token_id": None,
    "seed": None,
    "plan": None,
    "top_k": None,
    "top_p": None,
    "suppress_tokens": (),
    "infill": True,
    "threshold": None,
    "entropy_bound": None,
    "remask": 0.0,
    "cfg_scale": 0.0,
    "eos_token_id": None,
    "pad_token_id": None,
    "num_return_sequences": 1,
}
_FIELD = "masked_diffusion"


class MaskedDiffusionGenerationConfig(GenerationConfig):  # type: ignore[no-untyped-call]
    """Options of `mdm_schedules.generate` to keep with a model.

    They are stored under one field of their own, `masked_diffusion`, so that the defaults which transformers merges
    into a GenerationConfig (temperature 1, top_k 50, ...) never mix with them.

    Args:
        **options: any of the options of `generate` that JSON can hold, such as schedule="beta(a=0.8, b=0.3)", steps=16,
            temperature=0.7, remasking="random"; a Schedule is kept as its spec. Other names are errors.
    """

    def __init__(self, **options: Any) -> None:
        ours = dict(options.pop(_FIELD, None) or {})
        given = {name: options.pop(name) for name in list(options) if name in DEFAULTS}
        ours.update({name: value for name, value in given.items() if value is not None})
        unknown = [name for name in ours if name not in DEFAULTS]
        known = vars(GenerationConfig())
        unknown += [name for name in options if not name.startswith("_") and name not in known]
        if unknown:
            raise InvalidTypeError(f"unknown generation option {unknown[0]!r}.{did_you_mean(unknown[0], DEFAULTS)}")
        if isinstance(ours.get("schedule"), Schedule):
            ours["schedule"] = ours["schedule"].spec
        if ours.get("schedule") is not None:
            schedule_for(ours["schedule"], ours.get("steps") or 1)  # a preset may get its steps later
        super().__init__(**options)
        self.masked_diffusion = ours

    def __getattr__(self, name: str) -> Any:
        if name in DEFAULTS and _FIELD in self.__dict__:
            return self.masked_diffusion.get(name, DEFAULTS[name])
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


def merge_options(given: dict[str, Any], config: Any, fallback: Any) -> dict[str, Any]:
    """Each option as given, else from `config`, else from the model's own config if it is ours, else the default.

    A plain GenerationConfig says max_new_tokens, num_return_sequences and, if do_sample, temperature, top_k and top_p;
    what else it holds speaks of autoregressive decoding.
    """
    stored: dict[str, Any] = dict(getattr(fallback, _FIELD, None) or {})
    if getattr(config, _FIELD, None):
        stored.update(getattr(config, _FIELD))
    elif isinstance(config, GenerationConfig):
        names = ["max_new_tokens", "num_return_sequences"]
        names += ["temperature", "top_k", "top_p"] if config.do_sample else []
        stored.update({name: value for name in names if (value := getattr(config, name, None)) is not None})
    elif config is not None:
        raise InvalidTypeError(f"generation_config must be a GenerationConfig, got {type(config).__name__}")
    merged = DEFAULTS | stored | {name: value for name, value in given.items() if value is not None}
    if merged["plan"] is not None and given.get("plan") is None and given.get("steps") is not None:
        merged["plan"] = None  # steps given now go before a plan kept in a config
    return merged
