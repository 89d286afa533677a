"""A task of lm-eval as an objective for tuning: schedule -> score of each document."""

from __future__ import annotations

from typing import Any

from lm_eval import evaluate
from lm_eval.api.metrics import mean
from lm_eval.tasks import TaskManager
from mdm_schedules.integrations.lm_eval.model import MaskedDiffusionLM
from mdm_schedules.integrations.lm_eval.options import check_options
from mdm_schedules.integrations.lm_eval.tasks import load_tasks

from mdm_schedules.errors import InvalidValueError, check_int
from mdm_schedules.schedules import Schedule

_FEWSHOT_SEED = 1234  # lm-eval's default


class LMEvalObjective:
    """Runs one task under a schedule; see `lm_eval_objective`, which makes it.

    Attributes:
        metric: "name,filter" of what is scored.
        higher_is_better: of the metric; scores are its negative if not.
        per_document: whether the score is the mean over documents, which are then returned one by one.
        results: of the last call, as lm-eval gives them.
    """

    def __init__(
        self, lm: MaskedDiffusionLM, tasks: list[Any], metric: str | None, num_fewshot: int | None, **settings: Any
    ) -> None:
        self._lm, self._settings = lm, settings
        lm.work_alone()  # processes that tune together try different schedules
        self._loaded = TaskManager(include_defaults=False).load(tasks)
        self._tasks: dict[str, Any] = self._loaded["tasks"]
        self.results: dict[str, Any] = {}
        for name, task in self._tasks.items():
            if task.OUTPUT_TYPE != "generate_until":
                raise InvalidValueError(
                    f"the task {name} asks for {task.OUTPUT_TYPE}, which no schedule changes; take one that generates"
                )
            own = task.get_config("num_fewshot")
            if own is None or (num_fewshot is not None and own != 0):  # lm-eval never changes a 0 that the task says
                task.set_config(key="num_fewshot", value=num_fewshot or 0)
        self.metric = _choose(self._tasks, metric)
        name = self.metric.split(",")[0]
        kinds = {task.higher_is_better().get(name) is not False for task in self._tasks.values()}
        self.per_document = all(task.aggregation().get(name, mean) is mean for task in self._tasks.values())
        if len(kinds) > 1 or (len(self._tasks) > 1 and not self.per_document):
            raise InvalidValueError(
                f"{name} of {', '.join(self._tasks)} makes no one score; tune on one of these tasks"
            )
        self.higher_is_better = kinds.pop()

    def __call__(self, schedule: str | Schedule, **options: Any) -> list[float] | float:
        """Scores in the order of the documents, more is better; one score if the metric is none of single documents.

        `options` of `generate`, such as steps, hold for this call only.
        """
        kept = self._lm.options
        self._lm.options = {**kept, **check_options({"schedule": schedule, **options})}
        try:
            return self._run()
        finally:
            self._lm.options = kept

    def _run(self) -> list[float] | float:
        for task in self._tasks.values():
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)  # the same examples for every schedule
        self.results = evaluate(lm=self._lm, task_dict=self._loaded, bootstrap_iters=0, **self._settings)
        name, kind = self.metric.split(",")
        sign = 1.0 if self.higher_is_better else -1.0
        if not self.per_document:
            return sign * float(self.results["results"][next(iter(self._tasks))][self.metric])
        return [
            sign * float(document[name])
            for task in self._tasks
            for document in self.results["samples"][task]
            if document["filter"] == kind
        ]


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

    All schedules get the same documents, few-shot examples and noise, so that their scores can be compared in pairs.

        objective = lm_eval_objective(model, tokenizer, "gsm8k", steps=64, limit=100, max_new_tokens=256, batch_size=8)
        scores = objective("beta(a=0.9, b=0.3)")  # one per document, higher is better

    Args:
        model, tokenizer: as `MaskedDiffusionLM` takes them: loaded, or folders or Hub ids.
        task: name of a task or group.
        steps: forward passes per answer.
        metric: "exact_match", or with its filter "exact_match,strict-match"; by default the task's first.
        limit: use the first so many documents (of each task of a group).
        num_fewshot, apply_chat_template: as in lm-eval.
        include_path: folder with tasks of your own.
        task_manager: lm-eval's, if you have one; to build it takes seconds.
        allow_code_execution: for tasks that run what the model writes.
        **options: of `MaskedDiffusionLM`, those of `generate` included.

    Raises:
        MDMError: a task, metric or option that is not there, a task that asks for likelihoods, a limit below 1.
    """
    if limit is not None:
        limit = check_int("limit", limit, 1, example="limit=100")
    if num_fewshot is not None:
        num_fewshot = check_int("num_fewshot", num_fewshot, 0)
    manager = task_manager or TaskManager(include_path=include_path)
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


def _choose(tasks: dict[str, Any], metric: str | None) -> str:
    """The metric asked for, with its filter; the first if none is asked for."""
    choices: list[str] | None = None
    for task in tasks.values():
        filters = [ensemble.name for ensemble in task._filters]
        ours = [f"{name},{kind}" for kind in filters for name in task.aggregation()]
        choices = ours if choices is None else [key for key in choices if key in ours]
    fitting = [key for key in choices or [] if metric is None or metric in (key, key.split(",")[0])]
    if not fitting:
        raise InvalidValueError(f"{', '.join(tasks)}: no metric {metric!r}; known: {', '.join(choices or ['none'])}")
    return fitting[0]
