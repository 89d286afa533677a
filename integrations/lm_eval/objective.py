"""A task of lm-eval as an objective for tuning: schedule -> score of each document."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any

from lm_eval import evaluate
from lm_eval.api.metrics import mean
from lm_eval.tasks import TaskManager

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.files import local_path
from mdm_schedules.integrations.lm_eval.model import MaskedDiffusionLM
from mdm_schedules.integrations.lm_eval.options import check_options
from mdm_schedules.integrations.lm_eval.tasks import load_tasks
from mdm_schedules.sampling import get_policy
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.objectives import Objective, Scores
from mdm_schedules.tuning.objectives.base import model_name

_FEWSHOT_SEED = 1234  # lm-eval's default
BATCHES = 4  # of the model, in one call of lm-eval, which takes its time too


class LMEvalObjective(Objective):
    """Runs one task under a schedule; see `lm_eval_objective`, which makes it.

    Attributes:
        metric: "name,filter" of what is scored.
        higher_is_better: of the metric; scores are its negative if not.
        per_document: whether the score is the mean over documents, which are then returned one by
            one.
        num_instances: documents; None if the metric is none of single documents.
        results: of the last call, as lm-eval gives them.
    """

    direction = "maximize"

    def __init__(
        self,
        lm: MaskedDiffusionLM,
        tasks: list[Any],
        metric: str | None,
        num_fewshot: int | None,
        **settings: Any,
    ) -> None:
        self._lock = threading.Lock()
        self._lm, self._limit, self._settings = lm, settings.pop("limit", None), settings
        lm.work_alone()  # processes that tune together try different schedules
        # --- the tasks, each with its few-shot examples
        self._loaded = TaskManager(include_defaults=False).load(tasks)
        self._tasks: dict[str, Any] = self._loaded["tasks"]
        self.results: dict[str, Any] = {}
        for name, task in self._tasks.items():
            if task.OUTPUT_TYPE != "generate_until":
                raise InvalidValueError(
                    f"the task {name} asks for {task.OUTPUT_TYPE}, which no schedule changes; take "
                    "one that generates"
                )
            own = task.get_config("num_fewshot")
            # lm-eval never changes a 0 that the task says
            if own is None or (num_fewshot is not None and own != 0):
                task.set_config(key="num_fewshot", value=num_fewshot or 0)
        # --- the metric: its direction, and whether single documents have a score
        self.metric = _choose(self._tasks, metric)
        name = self.metric.split(",")[0]
        kinds = {task.higher_is_better().get(name) is not False for task in self._tasks.values()}
        self.per_document = all(
            task.aggregation().get(name, mean) is mean for task in self._tasks.values()
        )
        if len(kinds) > 1 or (len(self._tasks) > 1 and not self.per_document):
            raise InvalidValueError(
                f"{name} of {', '.join(self._tasks)} makes no one score; tune on one of these tasks"
            )
        self.higher_is_better = kinds.pop()
        # (task, number of the document in it), in the order of the scores
        self._documents = [
            (name, i) for name, task in self._tasks.items() for i in range(self._size(task))
        ]
        # --- what `tune` reads of an objective
        self.num_instances = len(self._documents) if self.per_document else None
        self.name, self.batch_size = "+".join(self._tasks), BATCHES * lm.batch_size
        self.metric_name = ("" if self.higher_is_better else "minus ") + name
        self.model_name, self.steps = model_name(lm.model), lm.options.get("steps")

    def _size(self, task: Any) -> int:
        documents = len(task.eval_docs)
        return documents if self._limit is None else min(self._limit, documents)

    @property
    def remasking(self) -> str:
        """The position policy's name."""
        order = self._lm.options.get("remasking")
        return get_policy("low_confidence" if order is None else order).name

    @property
    def sampler(self) -> dict[str, Any]:
        """The options that JSON can hold, but the schedule's."""
        plain = {
            key: value
            for key, value in self._lm.options.items()
            if isinstance(value, str | int | float | bool)
        }
        return {
            "remasking": self.remasking,
            **{key: value for key, value in plain.items() if key != "steps"},
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What a study that goes on is compared with."""
        return {
            "metric": self.metric,
            "model": self.model_name,
            "steps": self.steps,
            "sampler": self.sampler,
        }

    def __call__(
        self,
        schedule: str | Schedule,
        steps: int | None = None,
        instances: Sequence[int] | None = None,
        **options: Any,
    ) -> Scores:
        """Scores in the order of the documents, with the passes of each; higher is better.

        One score if the metric has none for single documents.

        Args:
            schedule: name, spec or Schedule.
            steps: forward passes, by default those of the objective.
            instances: numbers of the documents to score, by default all.
            **options: of `generate`, for this call only.
        """
        given = {"schedule": schedule, **options} | ({} if steps is None else {"steps": steps})
        lm = copy.copy(self._lm)  # of this call alone: threads may score several schedules
        lm.options = {**self._lm.options, **check_options(given)}
        lm.passes, lm.passes_of = [], {}
        chosen = range(len(self._documents)) if instances is None else instances
        wanted = [self._documents[i] for i in chosen]
        with self._lock:  # lm-eval keeps requests and answers in the tasks
            found = self._run(lm, wanted)
        mean = sum(lm.passes) / max(1, len(lm.passes))
        if not self.per_document:
            return Scores([found[wanted[0]]], {"nfe": mean}, sum(lm.passes), [mean])
        # lm-eval's requests name documents by their place among those that it was asked for
        places = {
            (task, i): (task, place)
            for task, numbers in _by_task(wanted).items()
            for place, i in enumerate(numbers)
        }
        spent = [lm.passes_of[places[document]] for document in wanted]
        return Scores(
            [found[document] for document in wanted],
            {"nfe": mean},
            sum(lm.passes),
            # of several answers to one document the mean: a bound on passes is one for each
            [sum(passes) / len(passes) for passes in spent],
        )

    def _run(
        self, lm: MaskedDiffusionLM, wanted: list[tuple[str, int]]
    ) -> dict[tuple[str, int], float]:
        """The score of each document.

        If the metric has none for single documents, the score of all stands under the first.
        """
        for task in self._tasks.values():
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)  # the same examples for every schedule
        # lm-eval takes the numbers of the documents of each task, and returns them in its own
        # order.
        asked = _by_task(wanted)
        samples = {name: asked.get(name, []) for name in self._tasks}
        self.results = evaluate(
            lm=lm,
            task_dict=self._loaded,
            samples=samples,
            bootstrap_iters=0,
            **self._settings,
        )
        name, kind = self.metric.split(",")
        # `tune` maximises, so what lm-eval minimises (perplexity) changes its sign.
        sign = 1.0 if self.higher_is_better else -1.0
        if not self.per_document:
            return {
                wanted[0]: sign
                * float(self.results["results"][next(iter(self._tasks))][self.metric])
            }
        return {
            (task, document["doc_id"]): sign * float(document[name])
            for task in self._tasks
            for document in self.results["samples"][task]
            if document["filter"] == kind
        }


def lm_eval_objective(
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    steps: int | None = None,
    metric: str | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool | str = False,
    include_path: str | None = None,
    task_manager: TaskManager | None = None,
    allow_code_execution: bool = False,
    **options: Any,
) -> LMEvalObjective:
    """An objective for tuning: called with a schedule, it runs a task of lm-eval that generates.

    All schedules get the same documents, few-shot examples and noise, so that their scores can be
    compared in pairs.

        objective = lm_eval_objective(model, tokenizer, "gsm8k", steps=64, limit=100,
        max_new_tokens=256, batch_size=8) scores = objective("beta(a=0.9, b=0.3)").values  # one per
        document, higher is better found = mdm.tune(objective, method="grid")

    Args:
        model, tokenizer: as `MaskedDiffusionLM` takes them: loaded, or folders or Hub ids.
        task: name of a task or group.
        steps: forward passes per answer.
        metric: "exact_match", or with its filter "exact_match,strict-match"; by default the task's
            first.
        limit: use the first so many documents (of each task of a group).
        num_fewshot, apply_chat_template: as in lm-eval.
        include_path: folder with tasks of your own.
        task_manager: lm-eval's, if you have one; to build it takes seconds.
        allow_code_execution: for tasks that run what the model writes.
        **options: of `MaskedDiffusionLM`, those of `generate` included.

    Raises:
        MDMError: a task, metric or option that is not there, a task that asks for likelihoods, a
            limit below 1.
    """
    if limit is not None:
        limit = check_int("limit", limit, 1, example="limit=100")
    if num_fewshot is not None:
        num_fewshot = check_int("num_fewshot", num_fewshot, 0)
    folder = None if include_path is None else str(local_path(include_path))
    manager = task_manager or TaskManager(include_path=folder)
    tasks = load_tasks([task], manager, allow_code_execution=allow_code_execution)
    lm = MaskedDiffusionLM(model, tokenizer, steps=steps, **options)
    return LMEvalObjective(
        lm,
        tasks,
        metric,
        num_fewshot,
        limit=limit,
        apply_chat_template=apply_chat_template,
        fewshot_as_multiturn=True,
        confirm_run_unsafe_code=allow_code_execution,
    )


def _by_task(wanted: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    """The numbers of the wanted documents of each task, in order, as lm-eval is asked for them."""
    found: dict[str, list[int]] = {}
    for task, i in sorted(wanted):
        found.setdefault(task, []).append(i)
    return found


def _choose(tasks: dict[str, Any], metric: str | None) -> str:
    """The metric asked for, with its filter; the first if none is asked for."""
    choices: list[str] | None = None
    for task in tasks.values():
        filters = [ensemble.name for ensemble in task._filters]
        ours = [f"{name},{kind}" for kind in filters for name in task.aggregation()]
        choices = ours if choices is None else [key for key in choices if key in ours]
    fitting = [key for key in choices or [] if metric is None or metric in (key, key.split(",")[0])]
    if not fitting:
        raise InvalidValueError(
            f"{', '.join(tasks)}: no metric {metric!r}; known: {', '.join(choices or ['none'])}"
        )
    return fitting[0]
