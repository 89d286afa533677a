"""The scheduler of aMUSEd's pipelines, with any mask schedule."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from diffusers import AmusedScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_amused import (
    AmusedSchedulerOutput,
    gumbel_noise,
    mask_by_random_topk,
)

from mdm_schedules.checks import check_int, check_real, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError
from mdm_schedules.integrations.diffusers.config import ScheduleConfigMixin, read_cached
from mdm_schedules.integrations.diffusers.draw import draw_tokens, race_noise
from mdm_schedules.plan import MAX_STEPS
from mdm_schedules.schedules import Cosine, Linear, Schedule, schedules


class MaskedDiffusionScheduler(ScheduleConfigMixin, AmusedScheduler):  # type: ignore[misc]
    """Drop-in for diffusers' AmusedScheduler in aMUSEd's three pipelines.

        pipe.scheduler = MaskedDiffusionScheduler.from_config(
            pipe.scheduler.config, schedule="beta(a=0.9, b=0.3)"
        )

    The pipelines are AmusedPipeline, AmusedImg2ImgPipeline and AmusedInpaintPipeline. With "cosine"
    and "linear" the scheduler gives AmusedScheduler's tokens for the same generator, bit for bit.
    Every other schedule follows `schedule.plan`. The mask token is never drawn (AmusedScheduler may
    draw it if it lies inside the vocabulary). As in AmusedScheduler, probabilities are read in the
    dtype of the logits.

    Args:
        mask_token_id: the id of masked positions.
        schedule: name, spec, folder or Schedule; None follows `masking_schedule`, which
            AmusedInpaintPipeline sets.
        masking_schedule: AmusedScheduler's name for its schedule, kept so that each class can load
            the other's config.

    Raises:
        MDMError: the schedule is unknown or cannot be written into a config.
    """

    _needed = "mask_token_id"
    _for = "AmusedPipeline, its img2img and inpaint forms, and MaskedDiffusionPipeline"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        mask_token_id: int,
        schedule: str | Schedule | None = None,
        masking_schedule: str = "cosine",
    ) -> None:
        check_int("mask_token_id", mask_token_id, 0)
        schedules.read(masking_schedule)
        super().__init__(mask_token_id=mask_token_id, masking_schedule=masking_schedule)
        self._keep_schedule(schedule)

    @property
    def schedule(self) -> Schedule:
        """The schedule in use."""
        return read_cached(self.config.schedule or self.config.masking_schedule)  # type: ignore[no-any-return]

    @schedule.setter
    def schedule(self, value: str | Schedule | None) -> None:
        self._keep_schedule(value)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        temperature: float | tuple[float, float] | list[float] = (2, 0),
        device: str | torch.device | None = None,
        *,
        sigmas: Any = None,
        mu: Any = None,
    ) -> None:
        """Set `timesteps` and the temperatures of the position noise.

        Timesteps run from num_inference_steps - 1 down to 0.

        Args:
            num_inference_steps: forward passes, at least 1.
            temperature: those of the first and the last step, or that of the first alone, which
                then falls to 0.01; each >= 0.
            device: where the tensors go.
            sigmas: passed by pipelines of continuous latents, which are refused.
            mu: as `sigmas`.
        """
        if sigmas is not None or mu is not None:
            raise self._continuous()
        steps = check_int(
            "num_inference_steps", num_inference_steps, 1, MAX_STEPS, example="set_timesteps(12)"
        )
        # One number is the start of a line down to 0.01, as diffusers reads it; two are both ends.
        ends = temperature if isinstance(temperature, tuple | list) else [temperature]
        if not 1 <= len(ends) <= 2:
            raise InvalidValueError(
                f"temperature must be a number or a pair of them, got {shown(temperature)}"
            )
        for end in ends:
            check_real("temperature", end, 0)
        super().set_timesteps(  # type: ignore[misc]
            steps, temperature if len(ends) == 2 else ends[0], device
        )

    def _index(self, timestep: Any) -> int:
        """Return the number of a step, from 0; its timestep counts down to 0."""
        if self.timesteps is None:
            raise InvalidValueError(
                "no timesteps are set; call scheduler.set_timesteps(num_inference_steps) first"
            )
        # Timesteps count down to 0, and the steps here count up from 0.
        last = len(self.timesteps) - 1
        try:
            number = check_int("timestep", timestep, 0, last)
        except MDMError as error:
            raise type(error)(f"{error}, as set by set_timesteps({last + 1})") from None
        return last - number

    def _ratio(self, index: int) -> torch.Tensor:
        """Return the generation time after a step as a float32 scalar.

        It is computed on the same device and in the same way as in AmusedScheduler, to match its
        bits.
        """
        steps = len(self.timesteps)
        return torch.full((), index + 1, device=self.timesteps.device) / steps

    def _masked(self, ratio: torch.Tensor) -> torch.Tensor:
        """Return the expected fraction of tokens that are still masked.

        For AmusedScheduler's own two schedules it is computed in their float32.
        """
        if isinstance(self.schedule, Cosine):
            return torch.cos(ratio * math.pi / 2)
        return 1 - (ratio if isinstance(self.schedule, Linear) else self.schedule.alpha(ratio))

    def _left(self, index: int, tokens: int, start: Any, masked: torch.Tensor) -> torch.Tensor:
        """Return how many tokens of each row [B, 1] stay masked after a step.

        `masked` [B, 1] is how many are masked before the step.
        """
        if isinstance(self.schedule, Cosine | Linear):
            left = (tokens * (start * self._masked(self._ratio(index)))).floor()
            # reveal at least one token and leave at least one
            return torch.max(torch.ones_like(masked), torch.min(masked - 1, left)).long()  # type: ignore[no-any-return]
        planned = _left_by_plan(self.schedule, round(tokens * float(start)), len(self.timesteps))[
            index
        ]
        return (masked - 1).clamp(min=0, max=planned)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        starting_mask_ratio: float | torch.Tensor = 1.0,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> AmusedSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Reveal the tokens of one step.

        Args:
            model_output: logits [B, V, H, W], or [B, L, V].
            timestep: one of `timesteps`.
            sample: LongTensor [B, H, W], or [B, L], with masks; never modified.
            starting_mask_ratio: the fraction of positions that were masked at the beginning, in [0,
                1].
            generator: None takes torch's global one, as diffusers does.
            return_dict: False returns a tuple.

        Returns:
            `.prev_sample`, the tokens after the step, and `.pred_original_sample`, with every mask
            filled.

        Raises:
            MDMError: no timesteps, a timestep that was not set, or tensors that are not logits and
                tokens.
        """
        index = self._index(timestep)
        if not isinstance(sample, torch.Tensor) or sample.is_floating_point():
            raise self._continuous(
                f"sample must be token ids, got {getattr(sample, 'dtype', type(sample))}: "
            )
        logits = _check_step(model_output, sample)
        tokens = sample.flatten(1).long()
        mask = self.config.mask_token_id
        unknown = tokens == mask
        # torch.multinomial has no half precision on the CPU, where AmusedScheduler then uses
        # float32
        on_cpu = (logits if generator is None else generator).device.type == "cpu"
        noise = race_noise(logits, generator, torch.float32 if on_cpu else logits.dtype)
        drawn, probs = draw_tokens(logits, unknown, mask, noise, lambda scores: scores)
        filled = tokens.masked_scatter(unknown, drawn)
        revealed = filled
        if index + 1 < len(self.timesteps):
            left = self._left(
                index, tokens.shape[1], starting_mask_ratio, unknown.sum(1, keepdim=True)
            )
            # revealed tokens rank above every mask, so they are never hidden again
            known = torch.finfo(logits.dtype).max
            confidence = torch.full_like(tokens, known, dtype=logits.dtype).masked_scatter(
                unknown, probs.to(logits.dtype)
            )
            # [1, 1] as in AmusedScheduler: a scalar would not promote half precision
            temperature = self.temperatures[index].view(1, 1)
            if isinstance(self.schedule, Cosine | Linear):
                hidden = mask_by_random_topk(left, confidence, temperature, generator)
            else:  # the same order, but ties in confidence do not reveal more than was planned
                key = confidence.clamp(1e-20).log() + temperature * gumbel_noise(
                    confidence, generator=generator
                )
                hidden = key.argsort(dim=1, stable=True).argsort(dim=1) < left
            revealed = torch.where(hidden, mask, filled)
        revealed, filled = revealed.view(sample.shape), filled.view(sample.shape)
        return AmusedSchedulerOutput(revealed, filled) if return_dict else (revealed, filled)  # type: ignore[arg-type]

    def add_noise(
        self,
        sample: torch.Tensor,
        timesteps: int | torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Mask tokens [B, ...] at random, each with the probability that belongs to a step.

        It is the probability of being masked after the step given by `timesteps`.
        """
        device = sample.device if generator is None else generator.device
        uniform = torch.rand(sample.shape, device=device, generator=generator).to(sample.device)
        masked = self._masked(self._ratio(self._index(timesteps))).to(sample.device)
        return torch.where(uniform < masked, self.config.mask_token_id, sample)


@lru_cache(maxsize=64)
def _left_by_plan(schedule: Schedule, tokens: int, steps: int) -> list[int]:
    return (tokens - schedule.plan(tokens, steps).cumsum(0)).tolist()  # type: ignore[no-any-return]


def _check_step(model_output: Any, sample: torch.Tensor) -> torch.Tensor:
    """Check the input of a step; return the logits as [B, L, V], without a copy."""
    if not isinstance(model_output, torch.Tensor) or not model_output.is_floating_point():
        raise InvalidTypeError(f"model_output must be floating logits, got {shown(model_output)}")
    logits = model_output.flatten(2).transpose(1, 2) if model_output.ndim == 4 else model_output
    grid = (
        (len(model_output), *model_output.shape[2:]) if model_output.ndim == 4 else logits.shape[:2]
    )
    if logits.ndim != 3 or sample.shape != grid:
        raise InvalidValueError(
            "model_output must be [batch, vocabulary, height, width] with a sample [batch, height, "
            "width], or "
            "[batch, length, vocabulary] with [batch, length]; "
            f"got {tuple(model_output.shape)} and {tuple(sample.shape)}"
        )
    return logits
