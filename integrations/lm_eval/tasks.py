"""lm-eval's tasks by name, with errors of one line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from mdm_schedules.errors import InvalidValueError, MDMError, StorageError, UnknownNameError


def load_tasks(
    names: Sequence[str], manager: TaskManager | None = None, *, allow_code_execution: bool = False
) -> list[Any]:
    """Tasks and groups, with their data, as `lm_eval.simple_evaluate(tasks=...)` takes them.

    Args:
        names: of tasks, groups or tags, patterns such as "mmlu_*", or YAML files.
        manager: what knows the tasks; by default those of lm-eval.
        allow_code_execution: whether tasks may run what the model writes.

    Raises:
        UnknownNameError: nothing has that name.
        StorageError: the task's data cannot be had, for example without a network.
        InvalidValueError: no names, or a task that runs what the model writes.
    """
    manager = manager or TaskManager()
    loaded: list[Any] = []
    for name in names:
        for found in _find(name, manager):
            try:
                answer = manager.load([found])
            # of datasets, the network, the task's own code: no common class
            except Exception as error:
                if isinstance(error, MDMError):
                    raise
                text = str(error).strip() or type(error).__name__
                raise StorageError(
                    f"cannot load the task {found}: {text.splitlines()[0]}"
                ) from error
            group = answer.get("groups", {}).get(found)
            for task in answer["tasks"].values():
                if getattr(task, "UNSAFE_CODE", False) and not allow_code_execution:
                    raise InvalidValueError(
                        f"the task {task.task_name} runs code that the model writes; if that may "
                        "be, say so: "
                        "allow_code_execution=True, or --allow-code-execution"
                    )
            loaded += [group] if group is not None else list(answer["tasks"].values())
    if not loaded:
        raise InvalidValueError("no tasks were given; name one, such as gsm8k")
    return loaded


def _find(name: str, manager: TaskManager) -> list[str]:
    if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        return [name]
    found = manager.match_tasks([name])
    if not found:
        close = difflib.get_close_matches(name[:80], manager.all_tasks, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`lm-eval ls tasks` lists them"
        raise UnknownNameError(
            f"lm-eval has no task {name!r}; {hint} Tasks of your own need their folder "
            "(include_path)"
        )
    return list(found)
