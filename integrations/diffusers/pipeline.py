"""A diffusers pipeline, text in and text out, for models that `mdm_schedules.generate` drives."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput

from mdm_schedules.checks import did_you_mean, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.integrations.diffusers.tokens import MaskedDiffusionScheduler
from mdm_schedules.integrations.transformers import AutoModelForMaskedDiffusion
from mdm_schedules.lookup import get_schedule
from mdm_schedules.models import get_adapter
from mdm_schedules.sampling import StepInfo, generate
from mdm_schedules.sampling.batching import in_calls, joined
from mdm_schedules.sampling.generation import own_schedule
from mdm_schedules.sampling.options import OPTIONS
from mdm_schedules.sampling.prompt import left_pad
from mdm_schedules.schedules import Schedule

DOWNLOAD_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
TENSOR_INPUTS = ["tokens", "revealed"]
OUTPUT_TYPES = ("text", "seq")
# of generate, less what __call__ gives it itself
_TAKEN = ("schedule", "steps", "mask_token_id", "callback", "progress", "tokenizer")
PIPELINE_OPTIONS = sorted(set(OPTIONS) - set(_TAKEN))


@dataclass
class MaskedDiffusionPipelineOutput(BaseOutput):  # type: ignore[misc]
    """The output of the pipeline.

    Attributes:
        sequences: LongTensor [B, max_new_tokens], the answers; if prompts held masks, [B, P +
            max_new_tokens], prompts and answers.
        texts: the sequences as text, each up to its first EOS; None for output_type="seq".
        nfe: forward passes spent.
    """

    sequences: torch.Tensor
    texts: list[str] | None = None
    nfe: int = 0


class MaskedDiffusionPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Writes text with a masked diffusion language model.

        pipe = MaskedDiffusionPipeline.from_pretrained(model_id, schedule="beta(a=0.9, b=0.3)")
        pipe("Once upon a time", max_new_tokens=64, num_inference_steps=16).texts[0]

    The models are LLaDA, Dream, MDLM, and BERT- and ESM-like ones. The schedule is that of
    `pipe.scheduler`. Change it as everywhere in diffusers:

        config = pipe.scheduler.config
        pipe.scheduler = MaskedDiffusionScheduler.from_config(config, schedule="sine")

    Args:
        model: a model that `mdm_schedules.generate` can drive.
        scheduler: a MaskedDiffusionScheduler; it gives the schedule and the mask token.
        tokenizer: the model's tokenizer; with None the pipeline accepts `input_ids` only.
    """

    model: Any
    scheduler: Any
    tokenizer: Any

    model_cpu_offload_seq = "model"
    _optional_components = ["tokenizer"]  # noqa: RUF012 - as diffusers declares it
    _callback_tensor_inputs = TENSOR_INPUTS

    def __init__(
        self, model: Any, scheduler: MaskedDiffusionScheduler, tokenizer: Any | None = None
    ) -> None:
        super().__init__()
        get_adapter(model)
        self.register_modules(model=model, scheduler=scheduler, tokenizer=tokenizer)  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], schedule: str | Schedule | None = None, **kwargs: Any
    ) -> MaskedDiffusionPipeline:
        """Load a model from the Hub or a folder, or a pipeline that `save_pretrained` wrote.

        Args:
            path: folder or Hub id of a model with its tokenizer, or of a saved pipeline.
            schedule: name, spec, folder or Schedule; None takes the one saved with the pipeline or
                model, else linear.
            **kwargs: `model`, `tokenizer` or `scheduler` to use instead of loading them; the rest
                goes to the model's loader (dtype, torch_dtype, device_map, revision, token,
                trust_remote_code, ...).

        Raises:
            MDMError: `path` holds no masked language model, or neither config nor tokenizer has a
                mask token.
        """
        from mdm_schedules.integrations.transformers.native import load_tokenizer

        parts = {
            name: kwargs.pop(name) for name in ("model", "tokenizer", "scheduler") if name in kwargs
        }
        shared = {
            name: kwargs[name]
            for name in (*DOWNLOAD_OPTIONS, "trust_remote_code")
            if name in kwargs
        }
        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")

        saved = _saved_pipeline(
            path, {name: shared[name] for name in DOWNLOAD_OPTIONS if name in shared}
        )

        def place(part: str) -> str | os.PathLike[str]:
            return path if saved is None else os.path.join(saved, part)

        scheduler = parts.get("scheduler")
        if scheduler is None and saved is not None:
            scheduler = MaskedDiffusionScheduler.from_pretrained(place("scheduler"))
        if schedule is not None:
            schedule = get_schedule(schedule)
            if scheduler is not None:
                scheduler = MaskedDiffusionScheduler.from_config(
                    scheduler.config, schedule=schedule
                )
        model = parts.get("model")
        if model is None:
            # the scheduler's schedule takes precedence, so the model's own is not even looked up
            used = getattr(scheduler, "schedule", None) if schedule is None else schedule
            model = AutoModelForMaskedDiffusion.from_pretrained(
                place("model"), schedule=used, **kwargs
            )
        if "tokenizer" not in parts:
            parts["tokenizer"] = load_tokenizer(place("tokenizer"), **shared)
        if scheduler is None:
            scheduler = MaskedDiffusionScheduler(
                mask_token_id=_mask_token(model, parts["tokenizer"]),
                schedule=schedule or own_schedule(model),
            )
        return cls(model, scheduler, parts["tokenizer"])

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        messages: Sequence[Any] | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        use_chat_template: bool = True,
        add_special_tokens: bool = True,
        output_type: str = "text",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("tokens",),
        **options: Any,
    ) -> MaskedDiffusionPipelineOutput | tuple[torch.Tensor, list[str] | None, int]:
        """Write an answer to each prompt, or fill the mask tokens in each.

        Args:
            prompt: one text or several; formatted with the tokenizer's chat template, if it has
                one.
            messages: one conversation [{"role": ..., "content": ...}, ...] or several, in place of
                prompts.
            input_ids: LongTensor [B, P] in place of prompts, padded on the left, with its
                `attention_mask`.
            attention_mask: [B, P], 0 on padding.
            num_inference_steps: total forward passes; None is one per token.
            generator: seeds the noise; one for the batch, or one per row.
            use_chat_template: False uses the prompt as it is.
            add_special_tokens: False keeps the tokenizer from adding its own, such as [CLS] and
                [SEP], to a prompt.
            output_type: "text", or "seq" for token ids only.
            return_dict: False returns the tuple (sequences, texts, nfe).
            callback_on_step_end: called as (pipeline, step, timestep, tensors) after each pass;
                step counts from 0, timestep down to 0. Its return value is ignored: the tensors are
                copies, for reading. Prompts that the model cannot run together (of different
                lengths, for a model that cannot mask padding or attends by blocks) run one batch
                after another; the tensors are those of the batch.
            callback_on_step_end_tensor_inputs: any of "tokens", a LongTensor [B, L], and
                "revealed", bool [B, L].
            **options: for `mdm_schedules.generate`: max_new_tokens, block_length, remasking,
                temperature, top_k, ...

        Returns:
            MaskedDiffusionPipelineOutput.

        Raises:
            MDMError: anything wrong with the arguments, before the first pass.
        """
        self._check_inputs(output_type, callback_on_step_end_tensor_inputs, options)
        if input_ids is None:
            input_ids, attention_mask = self._encode(
                prompt, messages, use_chat_template, add_special_tokens
            )
        elif prompt is not None or messages is not None:
            raise InvalidValueError("give one of prompt, messages and input_ids")
        if generator is not None:
            if options.get("seed") is not None:
                raise InvalidValueError("give a generator or a seed, not both")
            options["seed"] = _seeds(generator)
        wanted = list(callback_on_step_end_tensor_inputs)
        bar: Any = None
        before = 0  # passes of earlier batches

        def report(info: StepInfo) -> None:
            nonlocal bar
            bar = self.progress_bar(total=0) if bar is None else bar  # type: ignore[attr-defined]
            bar.total = before + info.total
            bar.update()
            if callback_on_step_end is not None:
                tensors = {name: getattr(info, name) for name in wanted}
                step = before + info.step - 1
                callback_on_step_end(self, step, info.total - info.step, tensors)

        mask = self.scheduler.config.mask_token_id
        shared = {
            **options,
            "schedule": self.scheduler.schedule if options.get("plan") is None else None,
            "steps": num_inference_steps,
            "mask_token_id": mask,
            "callback": report,
            "tokenizer": self.tokenizer,
        }
        parts = []
        try:
            for rows, call in in_calls(get_adapter(self.model), input_ids, attention_mask, shared):
                out = generate(self.model, **call)
                parts.append((rows, out.sequences))
                before += out.nfe
        finally:
            if bar is not None:
                bar.close()
            self.maybe_free_model_hooks()  # type: ignore[attr-defined]
        sequences = joined(input_ids, parts)
        infilled = bool((input_ids == mask).any())
        if not infilled:
            sequences = sequences[:, input_ids.shape[1] :]
        texts = self._decode(sequences, attention_mask, infilled) if output_type == "text" else None
        if not return_dict:
            return sequences, texts, before
        return MaskedDiffusionPipelineOutput(sequences, texts, before)

    def _check_inputs(
        self, output_type: str, tensor_inputs: Sequence[str], options: dict[str, Any]
    ) -> None:
        if not isinstance(self.scheduler, MaskedDiffusionScheduler):
            raise InvalidTypeError(
                "pipe.scheduler must be a MaskedDiffusionScheduler, got "
                f"{type(self.scheduler).__name__}; write "
                "pipe.scheduler = MaskedDiffusionScheduler(mask_token_id=tokenizer.mask_token_id, "
                "schedule='linear')"
            )
        if output_type not in OUTPUT_TYPES:
            raise InvalidValueError(
                "no output_type is "
                f"{shown(output_type)}.{did_you_mean(str(output_type), OUTPUT_TYPES)}"
            )
        if output_type == "text" and self.tokenizer is None:
            raise InvalidValueError(
                "output_type='text' needs a tokenizer; without one, pass output_type='seq'"
            )
        for name in tensor_inputs:
            if name not in TENSOR_INPUTS:
                raise InvalidValueError(
                    "a callback cannot be given "
                    f"{shown(name)}.{did_you_mean(str(name), TENSOR_INPUTS)}"
                )
        for name in options:
            if name not in PIPELINE_OPTIONS:
                given = {
                    "schedule": " It belongs to pipe.scheduler.",
                    "steps": " It is num_inference_steps here.",
                }
                hint = given.get(
                    name,
                    did_you_mean(
                        name,
                        [*PIPELINE_OPTIONS, *inspect.signature(type(self).__call__).parameters],
                    ),
                )
                raise InvalidTypeError(f"the pipeline takes no argument {name!r}.{hint}")

    def _encode(
        self, prompt: Any, messages: Any, use_chat_template: bool, add_special_tokens: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return prompts as [B, P], padded on the left, and a mask that is False on padding."""
        if (prompt is None) == (messages is None):
            raise InvalidValueError(
                "give one of prompt, messages and input_ids; for example pipe('Once upon a time')"
            )
        if self.tokenizer is None:
            raise InvalidValueError("the pipeline has no tokenizer; pass input_ids")
        if prompt is not None:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt)
            if not prompts or not all(isinstance(text, str) for text in prompts):
                raise InvalidTypeError(
                    f"prompt must be a text or a list of texts, got {shown(prompt)}"
                )
            if use_chat_template and getattr(self.tokenizer, "chat_template", None):
                messages = [[{"role": "user", "content": text}] for text in prompts]
        if messages is not None:
            if not messages:
                raise InvalidValueError("messages must hold at least one message")
            if not getattr(self.tokenizer, "chat_template", None):
                raise InvalidValueError(
                    "the tokenizer has no chat template; pass a prompt instead of messages"
                )
            chats = [messages] if isinstance(messages[0], dict) else list(messages)
            prompts = [
                self.tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False)
                for c in chats
            ]
            add_special_tokens = False  # the template has already added the special tokens
        rows = self.tokenizer(prompts, add_special_tokens=add_special_tokens).input_ids
        ids, attention_mask = left_pad(rows, self.tokenizer.pad_token_id or 0)
        return ids, attention_mask.long()

    def _decode(
        self, sequences: torch.Tensor, attention_mask: torch.Tensor | None, infilled: bool
    ) -> list[str]:
        rows = sequences.tolist()
        if infilled and attention_mask is not None:
            copies = len(rows) // len(attention_mask)  # answers to one prompt are adjacent
            skipped = (attention_mask == 0).sum(1).repeat_interleave(copies).tolist()
            rows = [row[start:] for row, start in zip(rows, skipped, strict=True)]
        eos = self.tokenizer.eos_token_id
        if eos is not None and not infilled:
            rows = [row[: row.index(eos)] if eos in row else row for row in rows]
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def _saved_pipeline(path: str | os.PathLike[str], options: dict[str, Any]) -> str | None:
    """Return the local folder of a saved pipeline, or None if `path` holds a model.

    A pipeline on the Hub is downloaded first.
    """
    if os.path.isdir(path):
        return (
            str(path) if os.path.isfile(os.path.join(path, DiffusionPipeline.config_name)) else None
        )
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        hf_hub_download(str(path), DiffusionPipeline.config_name, **options)
    # no such file or repository: the model's loader reports that better
    except (OSError, ValueError):
        return None
    parts = ["model/*", "tokenizer/*", "scheduler/*"]
    folder: str = snapshot_download(str(path), allow_patterns=parts, **options)
    return folder


def _mask_token(model: Any, tokenizer: Any) -> int:
    for token in (getattr(tokenizer, "mask_token_id", None), get_adapter(model).mask_token_id):
        if token is not None:
            return int(token)
    raise InvalidValueError(
        "neither the tokenizer nor the model's config has a mask_token_id; pass "
        "scheduler=MaskedDiffusionScheduler(mask_token_id=..., schedule='linear')"
    )


def _seeds(generator: Any) -> int | list[int]:
    """Draw seeds from the generators, so that equal generator states give equal tokens."""
    if isinstance(generator, torch.Generator):
        number = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
        return int(number)
    if not isinstance(generator, Sequence) or not all(
        isinstance(one, torch.Generator) for one in generator
    ):
        raise InvalidTypeError(
            f"generator must be a torch.Generator or one per row, got {shown(generator)}"
        )
    return [_seeds(one) for one in generator]  # type: ignore[misc]
