"""The discrete DDIM scheduler of DiffusionGemmaPipeline, with any schedule."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiscreteDDIMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_discrete_ddim import DiscreteDDIMSchedulerOutput

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidTypeError, MDMError
from mdm_schedules.integrations.diffusers.config import ScheduleConfigMixin, read_cached
from mdm_schedules.plan import MAX_STEPS
from mdm_schedules.schedules import Schedule


class UniformDiffusionScheduler(ScheduleConfigMixin, DiscreteDDIMScheduler):  # type: ignore[misc]
    """Drop-in for diffusers' DiscreteDDIMScheduler in DiffusionGemmaPipeline.

        pipe.scheduler = UniformDiffusionScheduler.from_config(
            pipe.scheduler.config, schedule="squared_sine"
        )

    Uniform corruption: at time t a token is its clean self with probability alpha(t), else one of
    the K tokens of the vocabulary at random (D3PM, arXiv 2107.03006). A step draws from the exact
    posterior of the earlier time given the clean tokens that the model predicts, with this
    schedule's alpha at both times. With "linear" the tokens are DiscreteDDIMScheduler's for the
    same generator, bit for bit.

    Args:
        num_inference_steps: forward passes for a canvas.
        corrector_steps: as in diffusers, as are the next three.
        corrector_k: positions that a sweep of the corrector draws again.
        corrector_selection: how they are chosen.
        corrector_selection_tau: temperature of that choice.
        schedule: name, spec, folder or Schedule.

    Raises:
        MDMError: the schedule is unknown or cannot be written into a config, or a number is out of
            range.
    """

    _needed = "num_inference_steps"
    _for = "DiffusionGemmaPipeline"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_inference_steps: int = 32,
        corrector_steps: int = 0,
        corrector_k: int = 1,
        corrector_selection: str = "lowest_log_margin",
        corrector_selection_tau: float = 1.0,
        schedule: str | Schedule = "linear",
    ) -> None:
        check_int("num_inference_steps", num_inference_steps, 1, MAX_STEPS)
        super().__init__(
            num_inference_steps,
            corrector_steps,
            corrector_k,
            corrector_selection,
            corrector_selection_tau,
        )
        self._keep_schedule(schedule)

    @property
    def schedule(self) -> Schedule:
        """The schedule in use."""
        return read_cached(self.config.schedule)

    @schedule.setter
    def schedule(self, value: str | Schedule) -> None:
        self._keep_schedule(value)

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Set the number of passes for a canvas."""
        steps = check_int(
            "num_inference_steps", num_inference_steps, 1, MAX_STEPS, example="set_timesteps(32)"
        )
        super().set_timesteps(steps, device)  # type: ignore[misc]

    def _alpha(self, step_index: int) -> float:
        """The share of clean tokens before a step; diffusers' corrector asks for it, too."""
        share: float = self.schedule.alpha(step_index / self.num_inference_steps)
        return share

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Draw the canvas of the next time.

        Args:
            model_output: logits [B, L, K].
            timestep: number of the step, 0 to num_inference_steps - 1.
            sample: LongTensor [B, L], the canvas; never changed.
            temperature: of the prediction of the clean tokens; 0 takes the most probable.
            generator: None takes torch's global one, as diffusers does.
            return_dict: False returns a tuple.

        Returns:
            DiscreteDDIMSchedulerOutput.

        Raises:
            MDMError: a timestep that was not set, or a sample that is no token ids.
        """
        if not isinstance(sample, torch.Tensor) or sample.is_floating_point():
            raise self._continuous("sample must be token ids: ")
        steps = self.num_inference_steps
        try:
            index = check_int("timestep", timestep, 0, steps - 1)
        except MDMError as error:
            raise type(error)(f"{error}, as set by set_timesteps({steps})") from None
        if model_output.shape[:-1] != sample.shape:
            raise InvalidTypeError(
                f"model_output must be [{', '.join(map(str, sample.shape))}, vocabulary], got "
                f"{tuple(model_output.shape)}"
            )
        clean, probs = self._sample_from_logits(
            model_output, temperature=temperature, generator=generator
        )
        # the posterior is a mixture of three: the predicted token, the present one, a random one
        size = model_output.shape[-1]
        before, after = self._alpha(index), self._alpha(index + 1)
        # an alpha that underflows has no clean tokens to keep
        kept = before / after if after > 0 else 0.0
        same = (sample == clean).float()
        flat = torch.ones_like(same)
        weights = torch.stack(
            [
                after * (1 - kept) / size + kept * after * same,
                kept * (1 - after) / size * flat,
                (1 - kept) * (1 - after) / size * flat,
            ],
            dim=-1,
        )
        weights = weights / weights.sum(dim=-1, keepdim=True)
        route = torch.multinomial(weights.view(-1, 3), 1, generator=generator).view_as(sample)
        random = torch.randint(size, sample.shape, device=sample.device, generator=generator)
        new = torch.where(route == 0, clean, torch.where(route == 2, random, sample))
        values: tuple[Any, ...] = (new, clean, probs, model_output)
        return DiscreteDDIMSchedulerOutput(*values) if return_dict else values
