"""Pictures of schedules and of quality against steps. Needs matplotlib: the extra `plot`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mdm_schedules.errors import InvalidValueError, StorageError, missing_extra
from mdm_schedules.schedules import Schedule


def _canvas() -> Any:
    try:
        # draws to files without a display
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise missing_extra("matplotlib", "plot") from error
    return FigureCanvasAgg


def check_picture(path: str | os.PathLike[str]) -> None:
    """Whether a picture can be saved at `path`, before the work that it shows.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InvalidValueError: the ending is none of a picture.
        StorageError: the folder does not exist or cannot be written, or `path` is a folder.
    """
    kinds = sorted(_canvas().get_supported_filetypes())
    name, folder = os.fspath(path), os.path.dirname(os.path.abspath(path))
    if os.path.splitext(name)[1].removeprefix(".").lower() not in kinds:
        raise InvalidValueError(
            f"the name of a picture must end in one of .{', .'.join(kinds)}, got {name}"
        )
    trouble = f"{folder} is no folder" if not os.path.isdir(folder) else ""
    trouble = f"{name} is a folder" if os.path.isdir(name) else trouble
    if not trouble and not os.access(name if os.path.exists(name) else folder, os.W_OK):
        trouble = "permission denied"
    if trouble:
        raise StorageError(f"cannot save a picture as {name}: {trouble}")


def new_figure(columns: int) -> tuple[Any, Any]:
    canvas = _canvas()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * columns, 4.0), layout="constrained")
    canvas(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _draw_schedules(axes: Any, schedules: Sequence[Schedule]) -> None:
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    for schedule in schedules:
        axes.plot(
            t.numpy(),
            schedule.alpha(t).numpy(),
            label=schedule.spec if len(schedule.spec) < 40 else schedule.name,
        )
    axes.set(
        xlabel="generation time t",
        ylabel=r"fraction revealed $\alpha(t)$",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend(loc="upper left", frameon=False)


def plot_schedules(
    schedules: Sequence[Schedule], path: str | os.PathLike[str], *, num_tokens: int, steps: int
) -> None:
    """Write a picture of alpha(t), and of the tokens revealed per step, for each schedule, if
    `check_picture`.
    """
    check_picture(path)
    figure, (left, right) = new_figure(2)
    _draw_schedules(left, schedules)
    for schedule in schedules:
        plan = schedule.plan(num_tokens, steps)
        right.plot(range(1, steps + 1), plan.numpy(), marker="o", markersize=3, label=schedule.name)
    right.set(xlabel="step", ylabel=f"tokens revealed of {num_tokens}")
    figure.savefig(path, dpi=130)


def plot_quality(
    schedules: Sequence[Schedule],
    results: Mapping[str, Mapping[int, tuple[float, float]]],
    path: str | os.PathLike[str],
    *,
    ylabel: str,
) -> None:
    """Write a picture of alpha(t) beside quality against steps.

    Args:
        schedules: the schedules, whose `spec` are the keys of `results`.
        results: spec -> steps -> (value, standard error).
        path: file to write, its format by the ending.
        ylabel: what the values are.

    Raises:
        MDMError: as `check_picture`.
    """
    check_picture(path)
    figure, (left, right) = new_figure(2)
    _draw_schedules(left, schedules)
    for spec, row in results.items():
        steps = sorted(row)
        values, errors = zip(*(row[step] for step in steps), strict=True)
        right.errorbar(steps, values, errors, marker="o", markersize=4, capsize=3, label=spec)
    right.set(xlabel="steps (forward passes)", ylabel=ylabel)
    right.legend(frameon=False)
    figure.savefig(path, dpi=130)
