"""Options that a generation config keeps, and which of several sources wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mdm_schedules.checks import plain_value, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.sampling.names import unknown_option
from mdm_schedules.sampling.options import (
    DEFAULTS,
    OPTIONS,
    STORED,
    GenerateOptions,
)


class StoredOptions(dict[str, Any]):
    """Options that a generation config holds, checked as they are set; also as attributes.

    Holds what was given; an attribute that was not given reads as its default. Setting None
    forgets an option.

    Raises:
        InvalidTypeError, InvalidValueError: no mapping, an unknown name, or a value out of range.
    """

    def __init__(self, options: Any = ()) -> None:
        super().__init__()
        self.update(options)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dict."""
        for options in (*args, kwargs):
            if not isinstance(options, Mapping | tuple):
                raise InvalidTypeError(
                    f"masked_diffusion must be a mapping of options, got {shown(options)}"
                )
            for name, value in dict(options).items():
                self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in STORED:
            raise unknown_option(str(name), "unknown generation option", STORED)
        if value is None:
            self.pop(name, None)
            return
        check = OPTIONS[name].check
        value = plain_value(name, value)
        super().__setitem__(name, value if check is None else check(name, value))

    def __getattr__(self, name: str) -> Any:
        if name in STORED:
            return self.get(name, OPTIONS[name].default)
        raise AttributeError(f"no generation option is named {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def options_of(config: Any) -> dict[str, Any]:
    """What a transformers generation config says of sampling.

    Of a MaskedDiffusionGenerationConfig its own options. A plain GenerationConfig says
    max_new_tokens, num_return_sequences and, if do_sample, temperature, top_k and top_p; what else
    it holds speaks of autoregressive decoding.

    Raises:
        InvalidTypeError: no generation config.
        InvalidValueError: it asks for beam search.
    """
    if config is None:
        return {}
    # by name, since the core imports no transformers
    names_of_bases = [base.__name__ for base in type(config).__mro__]
    if "GenerationConfig" not in names_of_bases:
        raise InvalidTypeError(
            f"generation_config must be a GenerationConfig, got {type(config).__name__}"
        )
    beams = max(getattr(config, name, None) or 1 for name in ("num_beams", "num_beam_groups"))
    if beams > 1:
        raise InvalidValueError(
            f"generation_config asks for beam search (num_beams={config.num_beams}), which writes "
            "from left to right; leave it out, and use num_return_sequences=... for several answers"
        )
    stored = getattr(config, "masked_diffusion", None)
    if "MaskedDiffusionGenerationConfig" in names_of_bases:
        return dict(stored or {})
    # transformers copies the model's own field into a plain config, too
    kept: dict[str, Any] = dict(StoredOptions(stored or {}))
    names = ["max_new_tokens"]
    names += ["num_return_sequences"] if (config.num_return_sequences or 1) > 1 else []
    names += ["temperature", "top_k", "top_p"] if config.do_sample else []
    said = {name: getattr(config, name, None) for name in names}
    return kept | {name: value for name, value in said.items() if value is not None}


def merge_options(given: Mapping[str, Any], config: Any, fallback: Any) -> GenerateOptions:
    """Each stored option as given, else from `config`, else from `fallback`, else its default.

    Of plan, schedule and steps, what is given overrides what a config holds: a plan both others,
    and either of these a plan.

    Args:
        given: options of the call; None is not given.
        config: the generation config of the call.
        fallback: the model's own, which counts only where it is ours.

    Raises:
        InvalidTypeError: no generation config.
        InvalidValueError: a plan together with a schedule, or a config with beam search.
    """
    chosen = {name: given[name] for name in STORED if given.get(name) is not None}
    if "plan" in chosen and "schedule" in chosen:
        raise InvalidValueError(
            "give a plan or a schedule, not both; schedule.plan(num_tokens, steps) makes a plan"
        )
    over: tuple[str, ...] = ()
    if "plan" in chosen:
        over = ("schedule", "steps")
    elif chosen.keys() & {"schedule", "steps"}:
        over = ("plan",)
    kept = {
        **StoredOptions(getattr(fallback, "masked_diffusion", None) or {}),
        **options_of(config),
    }
    for name in over:
        kept.pop(name, None)
    return cast(GenerateOptions, {**DEFAULTS, **kept, **chosen})
