"""Stores a schedule in a scheduler's config, as a text that `get_schedule` reads back.

As text the schedule survives wherever configs are saved, copied or sent.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

from diffusers import ConfigMixin

from mdm_schedules.checks import shown
from mdm_schedules.errors import FormatError, InvalidTypeError, MDMError
from mdm_schedules.lookup import get_schedule
from mdm_schedules.schedules import Schedule, schedules

read_cached = lru_cache(maxsize=64)(schedules.read)


class ScheduleConfigMixin(ConfigMixin):  # type: ignore[misc]
    """Keeps `schedule` in the config across save, load, and `from_config`.

    That includes `from_config` from and to diffusers' own classes.
    """

    config: Any  # diffusers' FrozenDict, whose keys are attributes too
    _own_names: tuple[str, ...] = ()  # values of `schedule` that are no registered names
    _needed: str  # keys that every config of this kind of scheduler has
    _for: str  # the pipelines that this scheduler fits

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Do as diffusers does; a `schedule` given here replaces that of the config."""
        if isinstance(config, dict):
            # A scheduler of continuous latents has none of our keys: better said here than as a
            # missing argument.
            if config.get(cls._needed) is None and cls._needed not in kwargs:
                raise cls._continuous(f"the config has no {cls._needed}: ")
            # passed by name, because diffusers leaves out values it takes for defaults: positional
            # arguments, and values that a pipeline wrote into the config later (as
            # AmusedInpaintPipeline does)
            for key in inspect.signature(cls.__init__).parameters.keys() & config.keys():
                value = config[key]
                # a config may come from somebody else's file: its text is a spec, never a path or a
                # repository
                own_spec = (
                    key == "schedule" and isinstance(value, str) and value not in cls._own_names
                )
                kwargs.setdefault(
                    key, schedules.read(value) if own_spec and key not in kwargs else value
                )
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @classmethod
    def _continuous(cls, what: str = "") -> InvalidTypeError:
        """Return the error for a feature that only pipelines of continuous latents use."""
        return InvalidTypeError(
            f"{what}this pipeline denoises continuous latents, which have no mask token; keep the "
            "scheduler it came "
            f"with. {cls.__name__} is for {cls._for}"
        )

    @property
    def init_noise_sigma(self) -> float:
        """Refuse pipelines of continuous latents, the only ones that read this attribute."""
        raise self._continuous()

    def _keep_schedule(self, schedule: str | Schedule | None) -> None:
        if schedule is not None and schedule not in self._own_names:
            schedule = as_text(get_schedule(schedule))
        self.register_to_config(schedule=schedule, _use_default_values=[])


def as_text(schedule: Schedule) -> str:
    """Return the spec of a schedule; FormatError if no process could read it back."""
    try:
        # A config is JSON, so the schedule must survive as text; a function as gamma does not.
        text = schedule.spec
        if schedules.read(text) != schedule:
            raise FormatError(f"{shown(text)} does not give it back")
    except MDMError as error:
        raise FormatError(
            f"{shown(schedule)} cannot be kept in a scheduler's config: {error} Register its class "
            "by an entry point "
            "or mdm_schedules.register_schedule, and give it parameters that can be written as text"
        ) from error
    return text
