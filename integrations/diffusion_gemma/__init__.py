"""DiffusionGemma in transformers, with any schedule for how many tokens a step accepts.

    from transformers import DiffusionGemmaForBlockDiffusion
    from mdm_schedules.integrations.diffusion_gemma import set_schedule

    model = DiffusionGemmaForBlockDiffusion.from_pretrained("google/diffusiongemma-26B-A4B-it")
    set_schedule(model, "beta(a=0.9, b=0.3)")
    out = model.generate(**inputs, max_denoising_steps=16)

There is no mask token: what is not accepted becomes random tokens again, and each step chooses anew
what it accepts. A schedule so says how many of a canvas's tokens are accepted after each step.
"""

from __future__ import annotations

from typing import Any

import torch

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidTypeError, MissingExtraError
from mdm_schedules.lookup import get_schedule
from mdm_schedules.schedules import Schedule

try:
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSampler
except ImportError as error:
    import transformers

    raise MissingExtraError(
        f"transformers {transformers.__version__} has no DiffusionGemma; run: pip install "
        "'transformers>=5.11' (known to work: 5.23 and 5.24)"
    ) from error


def set_schedule(
    model: Any, schedule: str | Schedule | None, *, entropy_bound: bool = False
) -> None:
    """Let `model.generate` accept tokens by a schedule; None gives the model its own rule back.

    Adaptive stopping goes on: a canvas ends early where the model is stable and sure. A
    `confidence_threshold` of 1e-9 in `generate` gives each canvas all `max_denoising_steps`. The
    passes that a row took are its new tokens over `tokens_per_forward` of the output.

    Args:
        model: transformers' DiffusionGemmaForBlockDiffusion.
        schedule: what `get_schedule` takes; after step i of n, round(canvas * alpha(i / n)) tokens
            are accepted, those of least entropy, and at least i.
        entropy_bound: also accept what the model's own rule would (the bound in its generation
            config); the schedule is then the least.

    Raises:
        InvalidTypeError: another model.
        MDMError: no such schedule; `generate` raises it for more steps than the canvas has tokens.
    """
    if not hasattr(model, "_prepare_sampler") or not hasattr(model.config, "canvas_length"):
        raise InvalidTypeError(
            "set_schedule takes a DiffusionGemmaForBlockDiffusion, got "
            f"{type(model).__name__}; for a model with masks use "
            "AutoModelForMaskedDiffusion.from_model(model, schedule)"
        )
    chosen = None if schedule is None else get_schedule(schedule)
    _forget(model)
    model.__dict__.pop("_prepare_sampler", None)
    if chosen is not None:
        model._prepare_sampler = _Prepare(model, chosen, entropy_bound)


def _forget(model: Any) -> None:
    """What transformers compiled with a sampler runs that sampler, whatever is asked for later."""
    for name in ("_compiled_accept_canvas", "_compiled_renoise_canvas"):
        model.__dict__.pop(name, None)


class _Prepare:
    """Stands in for the model's method that makes a sampler."""

    def __init__(self, model: Any, schedule: Schedule, entropy_bound: bool) -> None:
        self.model, self.schedule, self.entropy_bound = model, schedule, entropy_bound
        self._made: tuple[Any, ScheduledSampler] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without a sampler, which may hold compiled functions."""
        return {**self.__dict__, "_made": None}

    def __call__(self, generation_config: Any) -> ScheduledSampler:
        """The sampler of one call of `generate`; the same one for the same options."""
        canvas = self.model.config.canvas_length
        steps = check_int(
            "max_denoising_steps", generation_config.max_denoising_steps, 1, canvas,
            example=f"generate(..., max_denoising_steps={min(16, canvas)})",
        )  # fmt: skip
        key = (steps, generation_config.sampler_config.entropy_bound)
        if self._made is None or self._made[0] != key:
            _forget(self.model)
            counts = self.schedule.plan(canvas, steps).cumsum(0).to(self.model.device)
            sampler = ScheduledSampler(
                generation_config.sampler_config,
                canvas_length=canvas,
                vocab_size=self.model.config.text_config.vocab_size,
                max_denoising_steps=steps,
            )
            # by the number that transformers gives a step, which counts down to 1
            sampler.counts = torch.cat([counts[-1:], counts.flip(0)])
            sampler.bounded = self.entropy_bound
            self._made = key, sampler
        return self._made[1]


class ScheduledSampler(EntropyBoundSampler):  # type: ignore[misc]
    """Accepts the tokens of least entropy, as many as the schedule says.

    Attributes:
        counts: LongTensor [steps + 1], tokens accepted by the number of steps that remain.
        bounded: also accept by the entropy bound.
    """

    counts: torch.Tensor
    bounded = False

    def accept_canvas(
        self,
        current_canvas: torch.Tensor,
        denoiser_canvas: torch.Tensor,
        logits: torch.Tensor,
        cur_step: torch.Tensor | int,
    ) -> Any:
        """The canvas [B, W] with the accepted tokens of `denoiser_canvas`; see transformers."""
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        # sorted as transformers does, so that ties fall alike
        ordered, index = torch.sort(entropy, dim=-1, descending=False)
        place = torch.arange(index.shape[1], device=index.device)
        # gathered, since an index would make torch.compile wait for its value
        step = torch.as_tensor(cur_step, device=index.device).reshape(1).long()
        count = self.counts.to(index.device).index_select(0, step)
        chosen = (place < count).expand_as(index)
        if self.bounded:
            chosen = chosen | (ordered.cumsum(-1) - ordered <= self.entropy_bound)
        accepted = torch.zeros_like(chosen).scatter(-1, index, chosen)
        self.accepted_token_mask: Any = accepted  # what `renoise_canvas` leaves
        return torch.where(accepted, denoiser_canvas, current_canvas)
