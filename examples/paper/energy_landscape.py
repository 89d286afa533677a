"""Draws Fig. 2 of arXiv 2509.13866: the energy of alpha = Beta(a, b) by (a, b), for several gamma.

    python examples/paper/energy_landscape.py --output figures

Writes energy_landscape.png and energy_landscape.json (the excess E / pi^2 on the grid, null where E
is infinite, and the minimum, found by a search that does not know gamma). Takes a minute or two, or
seconds with --quick.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from tqdm import tqdm

from mdm_schedules.energy import energy_excess
from mdm_schedules.schedules import Beta

GAMMAS = [(1.0, 1.0), (0.5, 0.5), (0.9, 0.3), (0.4, 0.8)]


def axis_for(threshold: float, points: int) -> np.ndarray:
    """Return parameters up to 1.5, crowded just above the threshold of finite energy.

    Some lie below the threshold, where the energy is infinite.
    """
    below = np.linspace(0, threshold, points // 5 + 2)[1:]
    above = threshold + (1.5 - threshold) * np.linspace(0, 1, points + 1)[1:] ** 2
    return np.concatenate([below, above]).round(6)


def landscape(gamma: tuple[float, float], points: int, tolerance: float) -> dict[str, Any]:
    """Return the excess on a grid [b, a], and the minimum.

    Nelder-Mead finds the minimum from the best grid point.
    """
    weight = Beta(*gamma)
    # finite if and only if 2a > c and 2b > d
    axis_a, axis_b = (axis_for(shape / 2, points) for shape in gamma)
    excess = np.full((len(axis_b), len(axis_a)), math.inf)
    # no progress bar unless somebody is watching
    for i, b in enumerate(tqdm(axis_b, desc=f"gamma = Beta{gamma}", unit="row", disable=None)):
        excess[i] = [energy_excess(Beta(a, b), weight) for a in axis_a]
    i, j = np.unravel_index(np.argmin(excess), excess.shape)
    found = minimize(
        lambda logs: energy_excess(Beta(*np.exp(logs).tolist()), weight),
        np.log([axis_a[j], axis_b[i]]),
        method="Nelder-Mead",
        options={"xatol": tolerance, "fatol": tolerance**2},
    )
    a, b = np.exp(found.x).tolist()
    return {
        "gamma": list(gamma),
        "a": axis_a.tolist(),
        "b": axis_b.tolist(),
        "excess": [
            [value if math.isfinite(value) else None for value in row] for row in excess.tolist()
        ],
        "minimum": {"a": a, "b": b, "excess": float(found.fun)},
    }


def draw(panels: list[dict[str, Any]], path: Path) -> None:
    import matplotlib  # needs the extra `plot`

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    figure, axes = plt.subplots(
        1, len(panels), figsize=(3 * len(panels) + 1, 3.5), layout="constrained", squeeze=False
    )
    for ax, panel in zip(axes[0], panels, strict=True):
        excess = np.array(
            [[math.inf if value is None else value for value in row] for row in panel["excess"]]
        )
        grid = panel["a"], panel["b"], np.ma.masked_invalid(excess)
        norm = LogNorm(1, 10)
        filled = ax.contourf(
            *grid, np.geomspace(1, 10, 61), norm=norm, cmap="viridis_r", extend="max"
        )
        contours = ax.contour(*grid, [1.02, 1.1, 1.3, 1.7, 2.5, 5], colors="white", linewidths=0.7)
        ax.clabel(contours, fmt=lambda value: f"{value:g}", fontsize=7)
        c, d = panel["gamma"]
        infinite = {"facecolor": "0.88", "edgecolor": "0.7", "hatch": "//", "linewidth": 0}
        ax.axvspan(0, c / 2, **infinite)
        ax.axhspan(0, d / 2, **infinite)
        ax.text(
            0.75, d / 4, "infinite", ha="center", va="center", fontsize=8, backgroundcolor="0.88"
        )
        best = panel["minimum"]
        ax.plot(
            best["a"],
            best["b"],
            marker="*",
            markersize=14,
            color="crimson",
            markeredgecolor="white",
        )
        ax.set(
            xlim=(0, 1.5),
            ylim=(0, 1.5),
            xticks=[0, 0.5, 1, 1.5],
            yticks=[0, 0.5, 1, 1.5],
            aspect="equal",
        )
        ax.set_xlabel("a of alpha")
        ax.set_title(
            f"gamma: Beta({c:g}, {d:g})\nleast: Beta({best['a']:.3f}, {best['b']:.3f})", fontsize=10
        )
    axes[0, 0].set_ylabel("b of alpha")
    ticks = [1, 1.5, 2, 3, 5, 10]
    bar = figure.colorbar(filled, ax=axes, ticks=ticks, label="energy / pi$^2$", aspect=25)
    bar.ax.set_yticklabels([f"{tick:g}" for tick in ticks])
    bar.ax.minorticks_off()
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("figures"),
        help="folder to write into (default: figures)",
    )
    parser.add_argument("--quick", action="store_true", help="two gammas on a coarse grid")
    options = parser.parse_args(arguments)
    points, tolerance = (4, 1e-2) if options.quick else (20, 1e-5)
    panels = [
        landscape(gamma, points, tolerance) for gamma in (GAMMAS[1:3] if options.quick else GAMMAS)
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    draw(panels, options.output / "energy_landscape.png")
    numbers = {"source": "arXiv 2509.13866, Fig. 2, Eq. 14", "panels": panels}
    (options.output / "energy_landscape.json").write_text(json.dumps(numbers) + "\n")
    for panel in panels:
        best = panel["minimum"]
        print(
            f"gamma {panel['gamma']}: E / pi^2 is least, {best['excess']:.9f}, at "
            f"{best['a']:.4f}, {best['b']:.4f}"
        )
    print(f"wrote {options.output / 'energy_landscape.png'} and .json")


if __name__ == "__main__":
    main()
