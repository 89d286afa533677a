"""A GenerationConfig that holds the options of masked diffusion, in generation_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

from mdm_schedules.checks import say_once
from mdm_schedules.sampling.names import unknown_option
from mdm_schedules.sampling.options import STORED
from mdm_schedules.sampling.stored import StoredOptions

_FIELD = "masked_diffusion"
_PLAIN = vars(GenerationConfig())  # what transformers' own config holds
_DIFFERENT = tuple(name for name in STORED if name not in _PLAIN)
_BOTH = tuple(name for name in STORED if name in _PLAIN)


class MaskedDiffusionGenerationConfig(GenerationConfig):  # type: ignore[no-untyped-call]
    """Options of `mdm_schedules.generate` to keep with a model.

    They are one object, `config.masked_diffusion`, whose attributes are the options:
    `config.masked_diffusion.steps = 8`. Options that transformers does not have are attributes of
    the config as well (`config.steps = 8`). Where both have a name (temperature, top_k,
    max_new_tokens, ...), the config's attribute is transformers', which the sampler does not read.

    Args:
        **options: any of the options of `generate` that JSON can hold, such as
            schedule="beta(a=0.8, b=0.3)", steps=16, temperature=0.7, remasking="random"; a
            Schedule is kept as its spec. None is the default. Attributes that only transformers'
            config has are passed on to it.

    Raises:
        MDMError: an unknown name, or a value out of range; here as when an option is set.
    """

    masked_diffusion: StoredOptions

    def __init__(self, **options: Any) -> None:
        stored = options.pop(_FIELD, None)
        given = {name: options.pop(name) for name in list(options) if name in STORED}
        # `_commit_hash` and the like come from loading, and the names of `_PLAIN` are transformers'
        # own.
        for name in options:
            if not name.startswith("_") and name not in _PLAIN:
                raise unknown_option(name, "unknown generation option", STORED)
        if stored is not None:  # beside it, `to_dict` has the base class's defaults
            plain = {name: given.pop(name) for name in list(given) if name in _PLAIN}
            options |= {name: value for name, value in plain.items() if value is not None}
        super().__init__(**options)
        self.masked_diffusion = StoredOptions(
            {**({} if stored is None else StoredOptions(stored)), **given}
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == _FIELD and not isinstance(value, StoredOptions):
            value = StoredOptions({} if value is None else value)
        elif not (name.startswith("_") or name in _PLAIN or name in _DIFFERENT or name == _FIELD):
            raise unknown_option(name, "unknown generation option", STORED)
        # temperature and others exist twice; set on the config itself, they do not reach the
        # sampler.
        elif name in _BOTH and _FIELD in self.__dict__ and value != _PLAIN[name]:
            say_once(
                f"generation_config.{name} is transformers' own; the sampler reads "
                f"generation_config.masked_diffusion.{name}"
            )
        super().__setattr__(name, value)

    def update(
        self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Like `GenerationConfig.update`: set what is known, and return the rest.

        Options of ours go to `masked_diffusion`, but for calls that fill in defaults
        (`defaults_only`, which transformers makes itself).
        """
        if defaults_only:
            flags = {"defaults_only": True, "allow_custom_entries": allow_custom_entries}
            # transformers fills in what a model's own config says; that must not pass for a user's
            # wish.
            mine = {name: kwargs.pop(name) for name in list(kwargs) if name in _DIFFERENT}
            rest: dict[str, Any] = super().update(**flags, **kwargs)
            return mine | rest
        ours = {name: kwargs.pop(name) for name in list(kwargs) if name in STORED}
        self.masked_diffusion.update(ours)
        rest = super().update(**kwargs)
        return rest

    def to_dict(self) -> dict[str, Any]:
        """Like `GenerationConfig.to_dict`, with the options as a plain dict."""
        plain: dict[str, Any] = super().to_dict()
        return plain | {_FIELD: dict(self.masked_diffusion)}


def _attribute(name: str) -> property:
    def read(self: MaskedDiffusionGenerationConfig) -> Any:
        return getattr(self.masked_diffusion, name)

    def write(self: MaskedDiffusionGenerationConfig, value: Any) -> None:
        self.masked_diffusion[name] = value

    return property(read, write, doc=f"The option {name}; see `mdm_schedules.generate`.")


for _name in _DIFFERENT:
    setattr(MaskedDiffusionGenerationConfig, _name, _attribute(_name))


def as_masked_config(stored: Mapping[str, Any]) -> MaskedDiffusionGenerationConfig:
    """The config of options as they were saved."""
    return MaskedDiffusionGenerationConfig(**StoredOptions(stored))
