"""Pictures of curves, plans and quality, from plain arrays.

Needs matplotlib: the extra `plot`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdm_schedules.checks import missing_extra
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.files import check_output, local_path, write_output


def _canvas() -> Any:
    try:
        # draws to files without a display
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise missing_extra("matplotlib", "plot") from error
    return FigureCanvasAgg


def check_picture(path: str | os.PathLike[str]) -> Path:
    """Where a picture is saved, by the rule of `check_output`, before the work that it shows.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InvalidValueError: the ending is none of a picture.
        StorageError: the folder does not exist or cannot be written, or `path` is a folder.
    """
    kinds = sorted(_canvas().get_supported_filetypes())
    name = local_path(path)
    if name.suffix.removeprefix(".").lower() not in kinds:
        raise InvalidValueError(
            f"the name of a picture must end in one of .{', .'.join(kinds)}, got {name}"
        )
    return check_output(name)


def save_picture(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a matplotlib figure whole, by the rule of `check_picture`."""
    picture = io.BytesIO()
    kind = local_path(path).suffix.removeprefix(".").lower()
    figure.savefig(picture, format=kind, dpi=130)
    write_output(check_picture(path), picture.getvalue())


#: of Okabe and Ito, apart for every kind of colour vision
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def new_figure(columns: int) -> tuple[Any, Any]:
    """A figure with axes side by side, in the style of all pictures here."""
    canvas = _canvas()
    from matplotlib.figure import Figure

    # Not by pyplot, which keeps every figure and asks for a display.
    figure = Figure(figsize=(5.2 * columns, 4.0), layout="constrained")
    canvas(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.set_prop_cycle(color=COLOURS)
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


@dataclass(frozen=True)
class PlottedCurve:
    """One schedule as it is drawn.

    Attributes:
        label: for the legend.
        alpha: float64 [T], the share revealed at the times of the picture.
        plan: LongTensor [K], tokens per step; None where no plan is drawn.
    """

    label: str
    alpha: torch.Tensor
    plan: torch.Tensor | None = None


def _draw_alpha(axes: Any, times: torch.Tensor, curves: Sequence[PlottedCurve]) -> None:
    for curve in curves:
        axes.plot(times.numpy(), curve.alpha.numpy(), label=curve.label)
    axes.set(
        xlabel="generation time t",
        ylabel=r"fraction revealed $\alpha(t)$",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend(loc="upper left", frameon=False)


def draw_curves(times: torch.Tensor, curves: Sequence[PlottedCurve], num_tokens: int) -> bytes:
    """alpha(t) beside the tokens revealed per step, as a PNG.

    Args:
        times: float64 [T] in [0, 1].
        curves: each with a plan for `num_tokens` tokens.
        num_tokens: for the label.
    """
    picture = io.BytesIO()
    draw_figure(times, curves, num_tokens).savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def save_curves(
    times: torch.Tensor,
    curves: Sequence[PlottedCurve],
    path: str | os.PathLike[str],
    *,
    num_tokens: int,
) -> None:
    """`draw_curves` into the file `path`, whose ending gives the format, if `check_picture`."""
    check_picture(path)
    save_picture(draw_figure(times, curves, num_tokens), path)


def draw_figure(times: torch.Tensor, curves: Sequence[PlottedCurve], num_tokens: int) -> Any:
    """The same as a matplotlib Figure."""
    figure, (left, right) = new_figure(2)
    _draw_alpha(left, times, curves)
    for curve in curves:
        if curve.plan is not None:
            steps = range(1, len(curve.plan) + 1)
            right.plot(steps, curve.plan.numpy(), marker="o", markersize=3, label=curve.label)
    right.set(xlabel="step", ylabel=f"tokens revealed of {num_tokens}")
    return figure


def plot_quality(
    times: torch.Tensor,
    curves: Sequence[PlottedCurve],
    results: Mapping[str, Mapping[int, tuple[float, float]]],
    path: str | os.PathLike[str],
    *,
    ylabel: str,
) -> None:
    """Write a picture of alpha(t) beside quality against steps.

    Args:
        times: float64 [T] in [0, 1].
        curves: the schedules.
        results: label -> steps -> (value, standard error).
        path: file to write, its format by the ending.
        ylabel: what the values are.

    Raises:
        MDMError: as `check_picture`.
    """
    check_picture(path)
    figure, (left, right) = new_figure(2)
    _draw_alpha(left, times, curves)
    for label, row in results.items():
        steps = sorted(row)
        values, errors = zip(*(row[step] for step in steps), strict=True)
        right.errorbar(steps, values, errors, marker="o", markersize=4, capsize=3, label=label)
    right.set(xlabel="steps (forward passes)", ylabel=ylabel)
    right.legend(frameon=False)
    save_picture(figure, path)
