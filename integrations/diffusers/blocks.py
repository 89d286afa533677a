"""The scheduler of LLaDA2Pipeline, with any mask schedule."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

import diffusers.schedulers.scheduling_utils as scheduling_utils
import torch
from diffusers import BlockRefinementScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput

from mdm_schedules.checks import check_int, check_real, did_you_mean, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.integrations.diffusers.config import ScheduleConfigMixin, read_cached
from mdm_schedules.integrations.diffusers.draw import doubtful, draw_tokens, race_noise
from mdm_schedules.plan import MAX_STEPS, check_plan
from mdm_schedules.schedules import Schedule

EVEN = "even"
METHODS = ("auto", "greedy", "multinomial")

# The contract proposed in diffusers pull request 14741: timesteps are times in (0, 1], outputs
# share one class, and the scheduler's config says how logits are shaped. None where the installed
# diffusers lacks that class.
_Contract = getattr(scheduling_utils, "DiscreteSchedulerOutput", None)


@dataclass
class BlockMaskedDiffusionSchedulerOutput(BaseOutput):  # type: ignore[misc]
    """The output of `step`, with the names of diffusers' BlockRefinementSchedulerOutput.

    Attributes:
        prev_sample: LongTensor [B, L], the block after the step.
        transfer_index: bool [B, L], masks that were filled.
        editing_transfer_index: bool [B, L], tokens that were replaced.
        sampled_tokens: LongTensor [B, L], the drawn tokens; the block's own where none was drawn.
        sampled_probs: float32 [B, L], the probabilities of these tokens; 0 where none was drawn.
        pred_logits: the `model_output` of `step`.
    """

    prev_sample: torch.Tensor
    transfer_index: torch.Tensor
    editing_transfer_index: torch.Tensor
    sampled_tokens: torch.Tensor
    sampled_probs: torch.Tensor
    pred_logits: torch.Tensor


def _output_class() -> Any:
    """Return our output class, as a DiscreteSchedulerOutput where diffusers has that class.

    Fields that only diffusers' class has are None.
    """
    if _Contract is None:
        return BlockMaskedDiffusionSchedulerOutput
    ours = fields(BlockMaskedDiffusionSchedulerOutput)
    names = dict.fromkeys(one.name for one in (*ours, *fields(_Contract)))
    columns: list[Any] = [(name, Any, field(default=None)) for name in names]
    return make_dataclass(BlockMaskedDiffusionSchedulerOutput.__name__, columns, bases=(_Contract,))


_Output = _output_class()


class BlockMaskedDiffusionScheduler(ScheduleConfigMixin, BlockRefinementScheduler):  # type: ignore[misc]
    """Drop-in for diffusers' BlockRefinementScheduler in LLaDA2Pipeline.

        pipe.scheduler = BlockMaskedDiffusionScheduler.from_config(
            pipe.scheduler.config, schedule="beta(a=0.9, b=0.3)"
        )

    In every row of the block a step fills the schedule's number of masks, the most probable first,
    and every mask whose token is more probable than `threshold`. Above `editing_threshold` it also
    replaces tokens that are no masks, and below `revoke_threshold` it masks them again.
    LLaDA2Pipeline passes its own thresholds (0.7 and 0.5) to every step, and they override the
    config: call the pipeline with `threshold=1.1, editing_threshold=None` to follow the schedule
    alone.

    With schedule "even" the scheduler gives BlockRefinementScheduler's tokens for the same
    generator, bit for bit. Two things differ: the mask token is never drawn, and an EOS in the
    prompt no longer keeps its row from stopping early.

    Args:
        block_length: tokens per block.
        num_inference_steps: forward passes for a block.
        threshold: fill every mask whose token is more probable than this; a value above 1 leaves
            all masks to the schedule.
        editing_threshold: replace a token where another one is more probable than this; None or 0
            replaces none.
        revoke_threshold: mask a token again that became less probable than this, and fill as many
            more masks instead, while later steps of the block can fill them; None revokes none.
            Only the config says it, since no pipeline passes it.
        minimal_topk: as in diffusers; only the pipeline reads it, to bound the number of passes.
        schedule: "even" (equal steps; the first ones take the remainder), or a name, spec, folder
            or Schedule.

    Raises:
        MDMError: the schedule is unknown or cannot be written into a config, or a number is out of
            range.
    """

    _own_names = (EVEN,)
    _needed = "block_length"
    _for = "LLaDA2Pipeline"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        block_length: int = 32,
        num_inference_steps: int = 32,
        threshold: float = 0.95,
        editing_threshold: float | None = None,
        minimal_topk: int = 1,
        schedule: str | Schedule = EVEN,
        revoke_threshold: float | None = None,
    ) -> None:
        if revoke_threshold is not None:
            check_real("revoke_threshold", revoke_threshold, 0, 1)
        check_int("block_length", block_length, 1)
        check_int("num_inference_steps", num_inference_steps, 1, MAX_STEPS)
        super().__init__(
            block_length=block_length,
            num_inference_steps=num_inference_steps,
            threshold=check_real("threshold", threshold),
            editing_threshold=editing_threshold,
            minimal_topk=minimal_topk,
        )
        self._keep_schedule(schedule)
        self._quotas: list[int] = []

    @property
    def schedule(self) -> Schedule | None:
        """The schedule in use; None for "even"."""
        return None if self.config.schedule == EVEN else read_cached(self.config.schedule)

    @schedule.setter
    def schedule(self, value: str | Schedule) -> None:
        self._keep_schedule(value)

    def get_num_transfer_tokens(self, block_length: int, num_inference_steps: int) -> torch.Tensor:
        """Return how many masks of a block each step fills.

        The result is a LongTensor [num_inference_steps] and sums to `block_length`.
        """
        if self.schedule is None:
            return super().get_num_transfer_tokens(block_length, num_inference_steps)  # type: ignore
        return self.schedule.plan(block_length, num_inference_steps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        block_length: int | None = None,
        *,
        sigmas: Any = None,
        mu: Any = None,
    ) -> None:
        """Plan a block of `block_length` tokens in `num_inference_steps` passes.

        A `block_length` of None is that of the config. `sigmas` and `mu` come from pipelines of
        continuous latents, which are refused.
        """
        if sigmas is not None or mu is not None:
            raise self._continuous()
        steps = check_int(
            "num_inference_steps", num_inference_steps, 1, MAX_STEPS, example="set_timesteps(32)"
        )
        length = check_int(
            "block_length", self.config.block_length if block_length is None else block_length, 1
        )
        # [steps]: how many masks of the block each pass fills.
        quotas = check_plan(self.get_num_transfer_tokens(length, steps), torch.tensor([length]))[0]
        self._quotas, self._planned = quotas.tolist(), length
        self.num_inference_steps = steps
        self.timesteps = torch.arange(steps - 1, -1, -1, device=device)
        if _Contract is not None:
            # Times in (0, 1], as the contract has them; `_index` reads either kind.
            self.timesteps = (self.timesteps + 1) / steps

    def _index(self, timestep: Any) -> int:
        """Return the number of a step in its block.

        An integer is that number; a float in (0, 1] is a time that counts down.
        """
        if not self._quotas:
            raise InvalidValueError(
                "no timesteps are set; call scheduler.set_timesteps(num_inference_steps, "
                "block_length=...) first"
            )
        steps = len(self._quotas)
        # A time k / steps names the pass that ends there; anything between two of them is a
        # mistake.
        if isinstance(timestep, float) or (
            isinstance(timestep, torch.Tensor) and timestep.is_floating_point()
        ):
            time = check_real("timestep", float(timestep), 0, 1, low_open=True)
            index = round((1 - time) * steps)
            if abs(index / steps + time - 1) > 1e-4 / steps or index >= steps:
                raise InvalidValueError(
                    f"timestep must be one of scheduler.timesteps, k/{steps} for k = 1 to {steps}; "
                    f"got {time}"
                )
            return index
        return check_int("timestep", timestep, 0)

    def _setting(self, name: str, given: Any, default: Any = None) -> Any:
        return self.config.get(name, default) if given is None else given

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | float | torch.Tensor,
        sample: torch.Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Fill and edit a block.

        Args:
            model_output: logits [B, L, V] of the block.
            timestep: number of the step in its block, from 0; or one of `timesteps` where those are
                floats.
            sample: LongTensor [B, L], the block with its masks; never changed.
            mask_token_id: the id of masks; None means DiffusionGemma's uniform corruption, which
                only the schedule "even" supports.
            temperature: 0 takes the most probable token. None takes the config's, else 0.
            top_p, top_k: filters of the draw; probabilities in this class are always read after
                filtering.
            sampling_method: auto, greedy or multinomial; greedy ignores the temperature.
            threshold, editing_threshold: see the class; None takes the config's.
            minimal_topk: ignored, as in diffusers.
            prompt_mask: bool [L], True on tokens of the prompt, which are never edited.
            generator: None takes torch's global one, as diffusers does.
            return_dict: False returns a tuple.

        Returns:
            BlockMaskedDiffusionSchedulerOutput.

        Raises:
            MDMError: no timesteps, a timestep that was not set, a block that the plan would leave
                masks in, or tensors that are not logits and tokens.
        """
        if not isinstance(sample, torch.Tensor) or sample.is_floating_point():
            given = getattr(sample, "dtype", type(sample))
            raise self._continuous(f"sample must be token ids, got {given}: ")
        index = self._index(timestep)
        # --- settings: those of the call, else those that the pipeline wrote into the config
        mask = self._setting("mask_token_id", mask_token_id)
        settings = {
            "temperature": self._setting("temperature", temperature, 0.0),
            "top_p": self._setting("top_p", top_p),
            "top_k": self._setting("top_k", top_k),
            "sampling_method": sampling_method,
        }
        threshold = check_real("threshold", self._setting("threshold", threshold))
        editing = self._setting("editing_threshold", editing_threshold)
        editing = 0.0 if editing is None else check_real("editing_threshold", editing)
        if mask is None:
            if self.schedule is not None:
                raise InvalidValueError(
                    "without mask_token_id the block is corrupted by random tokens (DiffusionGemma)"
                    ", and there are no masks to schedule; use diffusers' BlockRefinementScheduler"
                    " or pass mask_token_id"
                )
            # diffusers' own step takes the mask from its caller; without one it does as ever
            return super().step(  # type: ignore[misc]
                model_output, index, sample, **settings, threshold=threshold,
                editing_threshold=editing_threshold,
                generator=generator, return_dict=return_dict,
            )  # fmt: skip
        # --- which positions may change: masks, and with editing what is no prompt
        self._check_block(model_output, sample)
        sample = sample.long()
        masked = sample == mask
        if index >= len(self._quotas) and bool(masked.any()):
            raise InvalidValueError(
                f"timestep {index} was not set, and masks are left: the plan ends with "
                f"{len(self._quotas) - 1}; set_timesteps to more, or begin each block at step 0"
            )
        filled = ~masked if prompt_mask is None else ~masked & ~prompt_mask
        editable = filled if editing > 0 else torch.zeros_like(masked)
        wanted = masked | editable
        # --- a token for each of them, and its probability before temperature; 0 elsewhere
        tokens, probs = self._draw(model_output, wanted, mask, generator, **settings)
        sampled = sample.masked_scatter(wanted, tokens)
        confidence = torch.zeros(sample.shape, device=sample.device).masked_scatter(wanted, probs)
        # --- reveal: the pass's quota of the most confident masks, and all above the threshold
        transfer, revoked = torch.zeros_like(masked), torch.zeros_like(masked)
        edited = editable & (sampled != sample) & (confidence > editing)
        if index < len(self._quotas):
            # a block may be narrower than planned, and topk takes no more than its width
            quota = min(self._quotas[index], sample.shape[1])
            ranked = torch.where(masked, confidence, -torch.inf)
            # topk, because it breaks ties as diffusers does
            best = torch.zeros_like(masked).scatter_(1, ranked.topk(quota, dim=1).indices, True)
            if (revoke := self.config.revoke_threshold) is not None:
                room = (masked.sum(1, keepdim=True) - quota).clamp(min=0)
                revoked = doubtful(model_output, sample, filled & ~edited, revoke, room)
                # as many more are filled, so that the block ends as planned
                count = quota + revoked.sum(1, keepdim=True)
                place = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
                best = best | (place < count)
            transfer = masked & (best | (confidence > threshold))
        new = torch.where(transfer | edited, sampled, sample).masked_fill(revoked, mask)
        values = (new, transfer, edited, sampled, confidence, model_output)
        names = [f.name for f in fields(BlockMaskedDiffusionSchedulerOutput)]
        return _Output(**dict(zip(names, values, strict=True))) if return_dict else values

    def _check_block(self, model_output: Any, sample: Any) -> None:
        if sample.ndim != 2:
            given = shown(sample)
            raise InvalidTypeError(f"sample must be token ids [batch, block_length], got {given}")
        if not isinstance(model_output, torch.Tensor) or model_output.shape[:-1] != sample.shape:
            shape = tuple(getattr(model_output, "shape", ()))
            raise InvalidValueError(
                f"model_output must be logits [{sample.shape[0]}, {sample.shape[1]}, vocabulary], "
                f"got {shape}"
            )
        if sample.shape[1] > self._planned:
            raise InvalidValueError(
                f"the block has {sample.shape[1]} tokens, but the plan reveals {self._planned} and "
                "would leave masks; "
                f"call set_timesteps({self.num_inference_steps}, block_length={sample.shape[1]})"
            )

    def _draw(
        self,
        logits: torch.Tensor,
        wanted: torch.Tensor,
        mask: int,
        generator: torch.Generator | None,
        temperature: float,
        top_p: float | None,
        top_k: int | None,
        sampling_method: str,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if sampling_method not in METHODS:
            raise InvalidValueError(
                "no sampling_method is "
                f"{shown(sampling_method)}.{did_you_mean(sampling_method, METHODS)}"
            )
        check_real("temperature", temperature, 0)
        if temperature == 0 or sampling_method == "greedy":
            return draw_tokens(logits, wanted, mask, None, lambda scores: scores.float())  # type: ignore[no-any-return]
        if top_p is not None:
            check_real("top_p", top_p, 0, low_open=True)

        def shape(scores: torch.Tensor) -> torch.Tensor:
            scores = self._top_k_filtering(
                scores if temperature == 1 else scores / temperature, top_k
            )
            return self._top_p_filtering(scores, top_p).float()  # type: ignore[no-any-return]

        return draw_tokens(
            logits, wanted, mask, race_noise(logits, generator, torch.float32), shape
        )  # type: ignore[no-any-return]

    @staticmethod
    def check_eos_finished(
        cur_x: torch.Tensor,
        sampled_tokens: torch.Tensor,
        final_transfer: torch.Tensor,
        finished: torch.Tensor,
        eos_token_id: int,
        mask_token_id: int,
        prompt_length: int,
    ) -> torch.Tensor:
        """Return which rows are finished.

        A row finishes when it commits an EOS and no mask is left before its first EOS.

        Args:
            cur_x: LongTensor [B, T], prompt and answer so far; an EOS inside the prompt does not
                count.
            sampled_tokens: LongTensor [B, L], the tokens drawn for the block.
            final_transfer: bool [B, L], True where a drawn token was written.
            finished: bool [B], the rows that were finished before.
            eos_token_id, mask_token_id: ids of these tokens.
            prompt_length: number of columns of `cur_x` that hold the prompt.
        """
        # A row ends at an end token that was just written, with no mask before the first one.
        committed = ((sampled_tokens == eos_token_id) & final_transfer).any(1)
        answer = cur_x[:, prompt_length:]
        is_eos = answer == eos_token_id
        masks_before = ((answer == mask_token_id) & (is_eos.cumsum(1) == 0)).any(1)
        return finished | (committed & is_eos.any(1) & ~masks_before)
