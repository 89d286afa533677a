"""Draws Fig. 3 of arXiv 2509.13866: gamma, the CDF of Beta(a, b), and the alpha optimal for it.

    python examples/paper/schedule_curves.py --output figures

Writes schedule_curves.png and schedule_curves.json (both curves on a grid of t). Takes seconds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from mdm_schedules.schedules import Beta

# late, early, steep in the middle, steep at the ends, and the two with names
SHAPES = [(0.9, 0.3), (1.0, 0.2), (0.3, 0.9), (3.0, 3.0), (0.2, 0.2), (0.5, 0.5), (1.0, 1.0)]
NAMES = {(0.5, 0.5): "linear", (1.0, 1.0): "squared sine"}
STYLES = {
    (0.5, 0.5): {"linestyle": "--", "color": "0.3"},
    (1.0, 1.0): {"linestyle": ":", "color": "0.3"},
}


def draw(t: np.ndarray, curves: list[dict[str, Any]], path: Path) -> None:
    import matplotlib  # needs the extra `plot`

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained", sharey=True)
    titles = {"gamma": "gamma(t) = CDF of Beta(a, b)", "alpha": "alpha(t) = sin$^2$(pi/2 gamma(t))"}
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        for curve in curves:
            shape = (curve["a"], curve["b"])
            name = f"Beta({shape[0]:g}, {shape[1]:g})" + (
                f", {NAMES[shape]}" if shape in NAMES else ""
            )
            ax.plot(t, curve[key], label=name, linewidth=1.8, **STYLES.get(shape, {}))
        ax.set(
            title=title,
            xlabel="t (0: all masked, 1: clean text)",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("gamma")
    axes[1].set_ylabel("alpha, the fraction revealed")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9
    )
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
    parser.add_argument("--quick", action="store_true", help="fewer points")
    options = parser.parse_args(arguments)
    # closer together near the ends, where the curves may be vertical
    t = np.sin(np.linspace(0, np.pi / 2, 41 if options.quick else 401)) ** 2
    curves = [
        {
            "a": a,
            "b": b,
            "gamma": Beta(a, b).gamma(t).tolist(),
            "alpha": Beta(a, b).alpha(t).tolist(),
        }
        for a, b in SHAPES
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    draw(t, curves, options.output / "schedule_curves.png")
    numbers = {"source": "arXiv 2509.13866, Fig. 3", "t": t.tolist(), "curves": curves}
    (options.output / "schedule_curves.json").write_text(json.dumps(numbers) + "\n")
    print(f"wrote {options.output / 'schedule_curves.png'} and .json")


if __name__ == "__main__":
    main()
