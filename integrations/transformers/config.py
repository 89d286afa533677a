"""A GenerationConfig with the options of masked diffusion, saved and loaded as
generation_config.json.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig

from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    check_int,
    check_real,
    did_you_mean,
    shown,
)
from mdm_schedules.hub import is_hub_id
from mdm_schedules.integrations.transformers.inputs import token_ids
from mdm_schedules.registry import schedule_for_steps
from mdm_schedules.sampling.policy import get_policy
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
    "suppress_tokens": None,
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
_COPIES = "num_return_sequences"
# not filled in by transformers: its warpers refuse our temperature 0
_OWN = {*DEFAULTS, "do_sample"}


class MaskedDiffusionGenerationConfig(GenerationConfig):  # type: ignore[no-untyped-call]
    """Options of `mdm_schedules.generate` to keep with a model; also read and set as attributes.

    They are stored under one field of their own, `masked_diffusion`, so that the defaults which
    transformers merges into a GenerationConfig (temperature 1, top_k 50, ...) never mix with them.
    An option of ours that transformers has too is always ours as an attribute; what the base class
    keeps under that name is seen by its own methods only.

    Args:
        **options: any of the options of `generate` that JSON can hold, such as
            schedule="beta(a=0.8, b=0.3)", steps=16, temperature=0.7, remasking="random"; a Schedule
            is kept as its spec. Other names are errors. None is the default.

    Raises:
        MDMError: an unknown name, or a value out of range; here as when an attribute is set.
    """

    def __init__(self, **options: Any) -> None:
        stored = options.pop(_FIELD, None)
        given = {name: options.pop(name) for name in list(options) if name in DEFAULTS}
        plain = vars(GenerationConfig())
        for name in [name for name in options if not name.startswith("_")]:
            if name not in plain:
                raise _unknown(name)
        if stored is not None:  # beside it, `to_dict` has the base class's defaults
            given = {
                name: value
                for name, value in given.items()
                if name not in plain or value != plain[name]
            }
        super().__init__(**options)
        # from here on, attributes of our names are our options
        self.masked_diffusion = {**_checked(stored or {}), **_checked(given)}

    def __getattribute__(self, name: str) -> Any:
        if (
            name in DEFAULTS
            and (own := super().__getattribute__("__dict__").get(_FIELD)) is not None
        ):
            return own.get(name, DEFAULTS[name])
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__.get(_FIELD)
        if own is None or name.startswith("_"):
            super().__setattr__(name, value)
        elif sys._getframe(1).f_code.co_name == "_prepare_generation_config":
            # transformers 4 copies what the model's own config says by plain assignment: only the
            # caller tells
            if name not in _OWN:
                self.__dict__[name] = value
        elif name == _FIELD:
            self.__dict__[name] = _checked(value or {})
        elif name in DEFAULTS:
            new = _checked({name: value})
            own.pop(name, None)
            own.update(new)
        elif name in self.__dict__:
            super().__setattr__(name, value)
        else:
            raise _unknown(name)

    def update(
        self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Set what is known here, and return the rest, as in transformers; whose flags tell its
        own calls.
        """
        left: dict[str, Any] = {}
        if defaults_only:  # what transformers fills in, its defaults and the model's, is not ours
            known = self.__dict__.keys() - _OWN
            left = {name: kwargs.pop(name) for name in list(kwargs) if name not in known}
            left |= {
                name: kwargs.pop(name) for name in list(kwargs) if getattr(self, name) is not None
            }
        return left | super().update(**kwargs)  # type: ignore[no-any-return]

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """The base class's checks, of what is its own: our temperature needs no do_sample."""
        plain = GenerationConfig.__new__(GenerationConfig)
        plain.__dict__ = self.__dict__
        plain.validate(*args, **kwargs)


def _unknown(name: str) -> InvalidTypeError:
    return InvalidTypeError(f"unknown generation option {name!r}.{did_you_mean(name, DEFAULTS)}")


def _checked(options: Any) -> dict[str, Any]:
    """The options that are not None, as JSON can hold them."""
    if not isinstance(options, Mapping):
        raise InvalidTypeError(f"{_FIELD} must be a mapping of options, got {shown(options)}")
    kept = {}
    for name, value in options.items():
        if name not in DEFAULTS:
            raise _unknown(str(name))
        if value is not None:
            # numbers of numpy, tensors
            value = value.tolist() if hasattr(value, "tolist") else value
            kept[name] = _CHECKS[name](value) if name in _CHECKS else value
    return kept


def _schedule(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.spec
    if not is_hub_id(value):  # the Hub is asked by `generate`
        schedule_for_steps(value, 16)  # any number: the steps may be set later
    return os.fspath(value)


def _remasking(value: Any) -> Any:
    get_policy(value)
    return value


def _infill(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidTypeError(f"infill must be True or False, got {shown(value)}")
    return value


def _whole(name: str, low: int) -> Callable[[Any], int]:
    return lambda value: check_int(name, value, low)


def _real(name: str, low: float, high: float = math.inf, **ends: bool) -> Callable[[Any], float]:
    return lambda value: check_real(name, value, low, high, **ends)


def _ids(name: str) -> Callable[[Any], Any]:
    return lambda value: (
        token_ids(name, value, None) if not isinstance(value, int) else check_int(name, value, 0)
    )


# what can be said without a model
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "schedule": _schedule,
    "remasking": _remasking,
    "infill": _infill,
    **{name: _whole(name, 1) for name in ("steps", "block_length", "num_return_sequences")},
    **{
        name: _whole(name, 0)
        for name in ("max_new_tokens", "mask_token_id", "pad_token_id", "top_k")
    },
    **{name: _real(name, 0) for name in ("temperature", "entropy_bound", "cfg_scale")},
    **{name: _real(name, 0, 1) for name in ("threshold", "remask")},
    "top_p": _real("top_p", 0, 1, low_open=True),
    **{name: _ids(name) for name in ("eos_token_id", "suppress_tokens")},
}


def merge_options(given: dict[str, Any], config: Any, fallback: Any) -> dict[str, Any]:
    """Each option as given, else from `config`, else from the model's own config if it is ours,
    else the default.

    A plain GenerationConfig says max_new_tokens, num_return_sequences and, if do_sample,
    temperature, top_k and top_p; what else it holds speaks of autoregressive decoding. Of plan,
    schedule and steps, what is given now goes before what a config holds: a plan before both, and
    either of them before a plan.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if "plan" in given and "schedule" in given:
        raise InvalidValueError(
            "give a plan or a schedule, not both; schedule.plan(num_tokens, steps) makes a plan"
        )
    stored: dict[str, Any] = dict(getattr(fallback, _FIELD, None) or {})
    if config is not None and not isinstance(config, GenerationConfig):
        raise InvalidTypeError(
            f"generation_config must be a GenerationConfig, got {type(config).__name__}"
        )
    if (
        config is not None
        and max(getattr(config, name, None) or 1 for name in ("num_beams", "num_beam_groups")) > 1
    ):
        raise InvalidValueError(
            f"generation_config asks for beam search (num_beams={config.num_beams}), which writes "
            "from left to right; "
            "leave it out, and use num_return_sequences=... for several answers"
        )
    # transformers puts the model's field into a plain config, too
    stored.update(getattr(config, _FIELD, None) or {})
    if config is not None and not isinstance(config, MaskedDiffusionGenerationConfig):
        names = (
            ["max_new_tokens"]
            if config.num_return_sequences in (None, 1)
            else ["max_new_tokens", _COPIES]
        )
        names += ["temperature", "top_k", "top_p"] if config.do_sample else []
        stored.update(
            {name: value for name in names if (value := getattr(config, name, None)) is not None}
        )
    over = (
        ("schedule", "steps")
        if "plan" in given
        else ("plan",)
        if given.keys() & {"schedule", "steps"}
        else ()
    )
    return DEFAULTS | {name: value for name, value in stored.items() if name not in over} | given
