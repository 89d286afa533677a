"""What a key-value cache costs in quality on the user's own model and data: `compare_caches`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mdm_schedules.checks import check_int, check_real, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.lookup import schedule_for_steps
from mdm_schedules.models import get_adapter
from mdm_schedules.sampling import GenerationOutput, generate
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.objectives.generation import GenerationObjective
from mdm_schedules.tuning.objectives.teacher_forced import TeacherForcedObjective
from mdm_schedules.tuning.statistics import Comparison, compare

#: what is compared where the model allows only approximate caches
MODES: dict[str, dict[str, Any]] = {
    "prefix": {"cache": "prefix"},
    "prefix, refresh 4": {"cache": "prefix", "cache_refresh": 4},
    "dual": {"cache": "dual"},
    "dual, refresh 4": {"cache": "dual", "cache_refresh": 4},
    "dual, refresh 2": {"cache": "dual", "cache_refresh": 2},
    "dual, every 4th block": {"cache": "dual", "cache_refresh_blocks": 4},
}
EXACT: dict[str, dict[str, Any]] = {"exact": {"cache": "exact"}}
FEWER = "half the steps"


@dataclass(frozen=True)
class CacheRow:
    """One cache against none, by instance.

    Attributes:
        name: of the row.
        options: of `generate`.
        computed: share of the columns that the passes compute.
        equal: share of the answers' tokens that are the same.
        nats: log-likelihood per token, teacher-forced, less that without a cache.
        metric: score of the task, less that without a cache; positive is better.
    """

    name: str
    options: Mapping[str, Any]
    computed: float
    equal: float | None
    nats: Comparison | None
    metric: Comparison | None


@dataclass(frozen=True)
class CacheComparison:
    """What the caches cost, and one recommendation.

    Attributes:
        rows: a row for each cache, and one for half the steps without any.
        steps: forward passes.
        instances: sequences or instances that were compared.
        recommended: options of `generate`.
        sentence: the recommendation, and why.
    """

    rows: list[CacheRow]
    steps: int
    instances: int
    recommended: Mapping[str, Any]
    sentence: str

    def table(self) -> str:
        """The rows as Markdown; differences to no cache, with one standard error."""
        lines = ["| | computed | equal tokens | nats per token | metric |", "|---" * 5 + "|"]
        for row in self.rows:
            cells = [
                row.name,
                f"{100 * row.computed:.0f} %",
                "" if row.equal is None else f"{100 * row.equal:.1f} %",
                _difference(row.nats),
                _difference(row.metric),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.sentence}"

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON."""
        rows = [
            {**vars(row), **{key: _told(getattr(row, key)) for key in ("nats", "metric")}}
            for row in self.rows
        ]
        return {**vars(self), "rows": rows}


def compare_caches(
    model: Any,
    data: Any,
    *,
    steps: int | None = None,
    block_length: int | None = None,
    maskable: torch.Tensor | None = None,
    schedule: str | Schedule = "linear",
    remasking: str = "low_confidence",
    modes: Mapping[str, Mapping[str, Any]] | None = None,
    tolerance: float = 0.25,
    batch_size: int = 32,
    seed: int = 0,
    mask_token_id: int | None = None,
) -> CacheComparison:
    """Compare caches with none, in pairs, on given sequences or on a task.

    Args:
        model: as for `generate`.
        data: LongTensor [S, L] of clean sequences, S >= 2, which gives nats per token and the share
            of equal tokens; or a `GenerationObjective` of this model, which gives its metric and
            the share of equal tokens.
        steps: forward passes of an answer; by default those of the objective.
        block_length: of sequences' answers; the objective has its own among its options.
        maskable: bool [S, L], True at the tokens to be generated, which have to be the last ones,
            the same number in each row; None is the second half.
        schedule: as in `generate`.
        remasking: position policy for sequences.
        modes: name -> options of `generate`; by default exact where the model allows it, else
            prefix and dual with several refreshes.
        tolerance: a cache is recommended if the upper end of the 95 % interval of its loss is at
            most this share of what half the steps lose.
        batch_size: sequences per call of the model.
        seed: of the draws.
        mask_token_id: by default that of the model's config.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, or a model without a cache.
    """
    tolerance = check_real("tolerance", tolerance, 0)
    support = get_adapter(model, None).cache_support()
    if support.kind is None:
        name = type(get_adapter(model).plain_model).__name__
        raise InvalidValueError(f"there is no cache to compare: {name} {support.reason}")
    if modes is None:
        modes = EXACT if support.kind == "exact" else MODES
    task: _Task
    if isinstance(data, GenerationObjective):
        task = _Generation(data, schedule)
    elif isinstance(data, torch.Tensor):
        options = {"remasking": remasking, "mask_token_id": mask_token_id, "seed": seed}
        options |= {"block_length": block_length, "batch_size": batch_size}
        task = _Sequences(model, data, maskable, schedule, options)
    else:
        raise InvalidTypeError(
            "data must be sequences, a LongTensor [S, L], or a GenerationObjective, got "
            f"{shown(data)}"
        )
    count = check_int("steps", task.steps if steps is None else steps, 2, example="steps=16")
    plain = task.run(count, {"cache": "none"})
    rows = [
        _row(name, dict(mode), plain, task.run(count, dict(mode))) for name, mode in modes.items()
    ]
    half = _row(FEWER, {"cache": "none"}, plain, task.run(count // 2, {"cache": "none"}))
    best, sentence = _recommend(rows, half, tolerance)
    instances = len(plain.metric or plain.nats or ())
    return CacheComparison([*rows, half], count, instances, best, sentence)


@dataclass
class _Run:
    """Scores by instance, answers, and what the passes computed."""

    tokens: list[torch.Tensor]
    passes: int = 0
    columns: int = 0  # computed by passes with a cache, and what they were without
    without: int = 0
    nats: Sequence[float] | None = None
    metric: Sequence[float] | None = None
    sign: float = 1.0

    def add(self, out: GenerationOutput) -> None:
        """Count what an answer took."""
        self.passes += out.nfe
        if out.cache is not None:
            self.columns, self.without = out.cache.computed, out.cache.without

    @property
    def cost(self) -> float:
        """Passes, counting those that compute a part as a part."""
        return self.passes * (self.columns / self.without if self.without else 1.0)


class _Task:
    steps: int | None = None

    def run(self, steps: int, options: dict[str, Any]) -> _Run:
        raise NotImplementedError


class _Generation(_Task):
    def __init__(self, objective: GenerationObjective, schedule: str | Schedule) -> None:
        self.objective, self.given, self.steps = objective, schedule, objective.steps

    def run(self, steps: int, options: dict[str, Any]) -> _Run:
        objective, schedule = self.objective, schedule_for_steps(self.given, steps)
        scores: list[float] = []
        sign = -1.0 if objective.direction == "minimize" else 1.0
        done = _Run([], metric=scores, sign=sign)
        # the same batches, in the same order, for every cache, so that instances are in pairs
        for batch in objective.batches(range(objective.num_instances)):
            out = objective.write(batch, schedule, steps, options)
            scores += objective.judge(out, batch)
            done.tokens += objective.answers(out, batch)
            done.add(out)
        return done


class _Sequences(_Task):
    def __init__(
        self,
        model: Any,
        tokens: torch.Tensor,
        maskable: torch.Tensor | None,
        schedule: str | Schedule,
        options: dict[str, Any],
    ) -> None:
        if maskable is None and tokens.ndim == 2:
            maskable = torch.zeros_like(tokens, dtype=torch.bool)
            maskable[:, tokens.shape[1] // 2 :] = True
        self.model, self.tokens, self.maskable = model, tokens, maskable
        self.given, self.options = schedule, options
        groups = self._objective({}).groups
        self.new = groups[0].num_tokens
        first = int(groups[0].places.min())
        if len(groups) > 1 or first != tokens.shape[1] - self.new:
            raise InvalidValueError(
                "maskable must be True at the last tokens of each row, the answer, and nowhere else"
            )

    def _objective(self, cache: dict[str, Any]) -> TeacherForcedObjective:
        return TeacherForcedObjective(
            self.model, self.tokens, self.maskable, **{**self.options, **cache}
        )

    def run(self, steps: int, options: dict[str, Any]) -> _Run:
        schedule = schedule_for_steps(self.given, steps)
        done = _Run([], nats=self._objective(options)(schedule, steps).values)
        given = {key: value for key, value in self.options.items() if key != "batch_size"}
        for rows in self.tokens[:, : -self.new].split(self.options["batch_size"]):
            out = generate(
                self.model,
                rows,
                max_new_tokens=self.new,
                schedule=schedule,
                steps=steps,
                **{**given, **options},
            )
            done.tokens += list(out.sequences[:, -self.new :].cpu())
            done.add(out)
        return done


def _row(name: str, options: dict[str, Any], plain: _Run, run: _Run) -> CacheRow:
    pairs = list(zip(run.tokens, plain.tokens, strict=True))
    same = sum(int((one == other).sum()) for one, other in pairs)
    return CacheRow(
        name,
        options,
        run.cost / plain.cost,
        same / max(1, sum(len(one) for one, _ in pairs)),
        None if run.nats is None else compare(run.nats, plain.nats or ()),
        None if run.metric is None else compare(run.metric, plain.metric or (), run.sign),
    )


def _recommend(
    rows: Sequence[CacheRow], half: CacheRow, tolerance: float
) -> tuple[dict[str, Any], str]:
    """The cheapest cache that costs little beside half the steps."""
    for row in rows:
        if row.options.get("cache") == "exact":
            return dict(row.options), "Use cache='exact' (the default): it costs no quality."
    yardstick = half.nats or half.metric
    assert yardstick is not None
    if yardstick.difference >= 0:
        return {"cache": "none"}, (
            "Use cache='none': half the steps lose nothing on this data, so that it cannot show "
            "what a cache loses. Give more of it, or fewer steps."
        )
    allowed = -tolerance * yardstick.difference
    unit = "nats per token" if half.nats else "of the metric"
    for row in sorted(rows, key=lambda row: row.computed):
        found = row.nats or row.metric
        assert found is not None
        low = found.difference if math.isnan(found.low) else found.low
        if -low <= allowed:
            call = ", ".join(f"{key}={value!r}" for key, value in row.options.items())
            return dict(row.options), (
                f"Use {call}: at the worst end of the 95 % interval it loses {max(0.0, -low):.2g} "
                f"{unit}, half the steps lose {-yardstick.difference:.2g}; passes compute "
                f"{100 * row.computed:.0f} % of the columns."
            )
    return {"cache": "none"}, (
        f"Use cache='none': no cache is sure to lose less than {allowed:.2g} {unit}, which is "
        f"{tolerance:g} of what half the steps lose. More sequences may tell."
    )


def _difference(found: Comparison | None) -> str:
    if found is None:
        return ""
    error = "" if math.isnan(found.standard_error) else f" ± {found.standard_error:.4f}"
    return f"{found.difference:+.4f}{error}"


def _told(found: Comparison | None) -> dict[str, Any] | None:
    return None if found is None else vars(found)
