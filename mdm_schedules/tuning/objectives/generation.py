"""Objectives that let the model write: a metric over the text of each instance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from mdm_schedules.checks import check_int, did_you_mean, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from mdm_schedules.information import InformationProfile
from mdm_schedules.models import ModelAdapter, get_adapter
from mdm_schedules.sampling import GenerationOutput, PositionPolicy, generate, get_policy
from mdm_schedules.sampling.batching import in_batches
from mdm_schedules.sampling.prompt import check_mask_token, left_pad
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.objectives.base import Objective, Scores, model_name, needed_steps

_EXAMPLE = "GenerationObjective(model, instances, steps=16, max_new_tokens=64)"
PROFILE_SEQUENCES = 16

#: name -> function of the written text (or ids) and the instance's answer
METRICS: dict[str, Callable[[Any, Any], float]] = {
    "exact_match": lambda output, answer: float(_plain(output) == _plain(answer)),
    "contains": lambda output, answer: float(str(answer) in str(output)),
}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    return value.strip() if isinstance(value, str) else value


class GenerationObjective(Objective):
    """Mean of a metric over the model's outputs, with the same seeds for every schedule.

    Args:
        model: as for `mdm_schedules.generate`.
        instances: a sequence of mappings with "prompt" (text, or token ids in which mask tokens
            are to be filled) and, for the metric, "answer"; or of pairs (prompt, answer). An
            optional "sequence" is a reference answer including its prompt, as ids, for
            `estimate_profile`.
        metric: "exact_match", "contains", or a function (output, answer) -> number. The output is
            the text after the prompt, or the whole sequence if nothing is appended to the prompt;
            without a tokenizer it is a LongTensor.
        tokenizer: needed for prompts that are text. Ids that it has no token for are never drawn.
        steps: forward passes, where `tune` is given none.
        batch_size: instances per call of the model; they are padded on the left.
        seed: instance i draws with the seed `seed` + i, whatever the batch.
        direction: "maximize" or "minimize" the metric.
        name: name of the task, for reports and the Hub.
        add_special_tokens: whether the tokenizer adds them to text prompts.
        **options: options of `mdm_schedules.generate`: max_new_tokens, remasking, temperature,
            block_length, ...

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: a wrong argument.
    """

    num_instances: int

    def __init__(
        self,
        model: Any,
        instances: Sequence[Any],
        metric: str | Callable[[Any, Any], float] = "exact_match",
        *,
        tokenizer: Any = None,
        steps: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        direction: str = "maximize",
        name: str = "generation",
        add_special_tokens: bool = False,
        **options: Any,
    ) -> None:
        if isinstance(instances, str | Mapping) or not isinstance(instances, Sequence):
            raise InvalidTypeError(
                f"instances must be a list of {{'prompt': ..., 'answer': ...}}, got "
                f"{shown(instances)}"
            )
        if not instances:
            raise InvalidValueError("instances must hold at least one prompt, got none")
        if isinstance(metric, str) and metric not in METRICS:
            raise UnknownNameError(
                f"no metric is named {shown(metric)}.{did_you_mean(metric, METRICS)}"
            )
        if not isinstance(metric, str) and not callable(metric):
            raise InvalidTypeError(
                "metric must be a name or a function (output, answer) -> number, got "
                f"{shown(metric)}"
            )
        # Options set here would contradict the schedule and the seeds that tuning controls.
        for taken in ("schedule", "plan", "seed", "num_return_sequences", "callback", "streamer"):
            if taken in options:
                raise InvalidTypeError(
                    f"{taken} is not an option of an objective: it is what tuning decides, or "
                    "counts on"
                )
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.metric = METRICS[metric] if isinstance(metric, str) else metric
        self.metric_name = (
            metric if isinstance(metric, str) else getattr(metric, "__name__", "score")
        )
        self.steps = None if steps is None else check_int("steps", steps, 1, example=_EXAMPLE)
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.seed = check_int("seed", seed, 0)
        self.direction, self.name, self.add_special_tokens = direction, name, add_special_tokens
        self.instances = [_instance(one) for one in instances]
        self.model_name = model_name(model)
        self.num_instances = len(self.instances)
        # Tokenised here, so that a bad prompt is reported before the first forward pass.
        self.prompts = [self._ids(one["prompt"]) for one in self.instances]
        self.clusters = [tuple(row) for row in self.prompts]

    @property
    def remasking(self) -> str:
        """Name of the position policy."""
        return self._policy.name

    @property
    def _policy(self) -> PositionPolicy:
        order = self.options.get("remasking")
        return get_policy("low_confidence" if order is None else order)

    @property
    def sampler(self) -> dict[str, Any]:
        """The options that JSON can represent."""
        # Streamers, processors and the like have no JSON form.
        plain = {
            key: value
            for key, value in self.options.items()
            if isinstance(value, str | int | float | bool)
        }
        return {"remasking": self.remasking, **plain}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a resumed study must share."""
        told = {
            "metric": self.metric_name,
            "seed": self.seed,
            "model": self.model_name,
            "steps": self.steps,
        }
        # A digest recognises the same instances without copying them into every study.
        texts = repr(
            [
                (row, one.get("answer"))
                for row, one in zip(self.prompts, self.instances, strict=True)
            ]
        )
        told["instances"] = hashlib.sha256(texts.encode()).hexdigest()[:16]
        return json.loads(json.dumps(told | {"sampler": self.sampler}))  # type: ignore[no-any-return]

    def _ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise InvalidTypeError("prompts that are text need tokenizer=")
            return list(
                self.tokenizer(prompt, add_special_tokens=self.add_special_tokens).input_ids
            )
        # Tensors and arrays of any library have `tolist`.
        ids = prompt.tolist() if hasattr(prompt, "tolist") else prompt
        if not isinstance(ids, Sequence):
            raise InvalidTypeError(f"a prompt must be text or token ids, got {shown(prompt)}")
        return [check_int("prompt", token, 0) for token in ids]

    def __call__(
        self,
        schedule: Schedule,
        steps: int | None = None,
        instances: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Scores:
        """The metric of each instance; `options` of `generate` replace the objective's own."""
        wanted = list(range(self.num_instances)) if instances is None else list(instances)
        count = needed_steps(steps, self.steps, _EXAMPLE)
        scores: dict[int, float] = {}
        written: dict[int, torch.Tensor] = {}
        spent: dict[int, float] = {}
        passes = 0
        for batch in self.batches(wanted):
            out = self.write(batch, schedule, count, options)
            scores |= zip(batch, self.judge(out, batch), strict=True)
            written |= zip(batch, self.answers(out, batch), strict=True)
            spent |= zip(batch, out.nfe_per_row.tolist(), strict=True)
            passes += out.nfe * len(batch)
        nfe = [spent[index] for index in wanted]
        extras = self.measure([written[index] for index in wanted])
        values = [scores[index] for index in wanted]
        return Scores(values, {"nfe": sum(nfe) / len(wanted), **extras}, passes, nfe)

    def batches(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        """Instances whose prompts the model can run together."""
        lengths = [len(self.prompts[index]) for index in wanted]
        for batch in in_batches(self._adapter, lengths, self.batch_size):
            yield [wanted[i] for i in batch]

    def measure(self, written: list[torch.Tensor]) -> dict[str, float]:
        """Extra measurements over all outputs, shown beside the score; none here."""
        return {}

    def write(
        self,
        batch: Sequence[int],
        schedule: Schedule | None,
        steps: int | None,
        options: Mapping[str, Any] | None = None,
    ) -> GenerationOutput:
        """The model's outputs for these instances, with prompts padded on the left."""
        # The seed belongs to the instance, so neither batch nor schedule changes the noise.
        ids, attention_mask = left_pad([self.prompts[index] for index in batch])
        return generate(
            self.model,
            ids,
            attention_mask,
            schedule=schedule,
            steps=steps,
            seed=[self.seed + index for index in batch],
            tokenizer=self.tokenizer,
            **{**self.options, **(options or {})},
        )

    def judge(self, out: GenerationOutput, batch: Sequence[int]) -> list[float]:
        """One score per instance."""
        outputs: Sequence[Any] = self.answers(out, batch)
        if self.tokenizer is not None:
            outputs = self.tokenizer.batch_decode(outputs, skip_special_tokens=True)
        pairs = zip(outputs, batch, strict=True)
        return [
            float(self.metric(output, self.instances[index].get("answer")))
            for output, index in pairs
        ]

    def answers(self, out: GenerationOutput, batch: Sequence[int]) -> list[torch.Tensor]:
        """The tokens after each prompt, or the whole unpadded sequence if nothing is appended."""
        # Without appended tokens the answer stands inside the prompt, at its masks.
        if out.sequences.shape[1] == out.prompt_length:
            return self._whole(out, batch)
        return list(out.sequences[:, out.prompt_length :].cpu())

    def _whole(self, out: GenerationOutput, batch: Sequence[int]) -> list[torch.Tensor]:
        """Prompts and answers without padding, which is on the left."""
        rows = zip(out.sequences.cpu(), batch, strict=True)
        return [row[out.prompt_length - len(self.prompts[index]) :] for row, index in rows]

    def plan_key(self, schedule: Schedule, steps: int | None) -> str | None:
        """The plan if it alone determines the output, else None.

        It does so for a single block, equal numbers of masks, and counts that are not random.
        """
        if self._policy.random_counts or any(
            self.options.get(name) for name in ("block_length", "eos_token_id")
        ):
            return None
        # Blocks split the masks and an end token frees some, so the plan is not known beforehand.
        count, size = needed_steps(steps, self.steps, _EXAMPLE), self.num_tokens
        return None if size is None else str(schedule.plan(size, count).tolist())

    @property
    def num_tokens(self) -> int | None:  # type: ignore[override]
        """Tokens that each instance writes; None where they differ."""
        mask, new = self.mask_token_id, self.options.get("max_new_tokens") or 0
        masks = {row.count(mask) + new for row in self.prompts}
        return masks.pop() if len(masks) == 1 else None

    @property
    def mask_token_id(self) -> int:
        """The mask token: the option of that name, or the model's own."""
        return check_mask_token(self._adapter, self.options.get("mask_token_id"))

    @property
    def _adapter(self) -> ModelAdapter:
        return get_adapter(self.model, self.options.get("adapter"))

    def estimate_profile(
        self,
        sequences: int = PROFILE_SEQUENCES,
        instances: Sequence[int] | None = None,
        **options: Any,
    ) -> InformationProfile:
        """The information profile of the model on this task.

        Args:
            sequences: number of instances. Their "sequence" is used if all have one, else the
                model's own answers at one token per pass, which give no cross-entropy.
            instances: indices to choose the first `sequences` from; by default all.
            **options: options of `InformationProfile.estimate`.

        Raises:
            InvalidValueError: a "sequence" differs in length from its prompt with masks.
        """
        batch = list(range(self.num_instances) if instances is None else instances)[:sequences]
        mask, new = self.mask_token_id, self.options.get("max_new_tokens") or 0
        start, real = left_pad([[*self.prompts[index], *[mask] * new] for index in batch])
        own = not all("sequence" in self.instances[index] for index in batch)
        spent = 0
        if own:
            rows: dict[int, torch.Tensor] = {}
            for some in self.batches(batch):
                out = self.write(some, None, None)
                rows |= zip(some, self._whole(out, some), strict=True)
                spent += out.nfe * len(some)
            tokens, _ = left_pad([rows[index] for index in batch])
            # A model agrees with its own text, which therefore shows nothing of its calibration.
            options = {"method": "entropy", **options}
        else:
            answers = [self._ids(self.instances[index]["sequence"]) for index in batch]
            # Maskable places are read off the prompt, so both must line up.
            if [len(answer) for answer in answers] != real.sum(1).tolist():
                raise InvalidValueError(
                    "each 'sequence' must be as long as its prompt with the masks to be filled"
                )
            tokens, _ = left_pad(answers)
        profile = InformationProfile.estimate(
            self._adapter,
            tokens,
            maskable=(start == mask) & real,
            attention_mask=real,
            mask_token_id=mask,
            **options,
        )
        measured = profile.measurement
        if measured is not None and own:
            # what wrote the answers is part of what the profile cost
            told = replace(measured, passes=measured.passes + spent, calibration=None)
            profile = InformationProfile(profile.values, measurement=told)
        return profile


def _instance(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping) and "prompt" in given:
        return dict(given)
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2:
        return {"prompt": given[0], "answer": given[1]}
    raise InvalidTypeError(
        f"an instance must be {{'prompt': ..., 'answer': ...}} or a pair, got {shown(given)}"
    )
