"""Whether a model is as sure as it is right: entropy against cross-entropy, by mask rate."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mdm_schedules.plotting import new_figure, save_picture

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

RANGES = 4  # of reveal counts, each tested by itself
LEVEL = 0.95  # of all ranges together (Bonferroni)


@dataclass(frozen=True)
class CalibrationRange:
    """Entropy and cross-entropy over a range of reveal counts, in nats per hidden token.

    Attributes:
        first, last: smallest and largest number of revealed tokens.
        entropy, cross_entropy: means over sequences and counts.
        error: standard error of the difference.
        differs: whether the difference is beyond its error at 95 %, all ranges together.
    """

    first: int
    last: int
    entropy: float
    cross_entropy: float
    error: float
    differs: bool

    @property
    def where(self) -> str:
        """The counts as text."""
        return f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"

    @property
    def gap(self) -> float:
        """Cross-entropy minus entropy: positive where the model is overconfident."""
        return self.cross_entropy - self.entropy


@dataclass(frozen=True)
class Calibration:
    """Entropy of a model's predictions, and what the true tokens cost it, from the same logits.

    The two agree where the model is calibrated. Where the cross-entropy is larger the model is
    overconfident, and its entropy predicts too small a cost.

    Attributes:
        counts: numbers of revealed tokens, of `num_tokens`.
        entropy, cross_entropy: means over sequences in nats per hidden token, at each count.
        errors: standard errors of their differences.
        ranges: the counts in at most four ranges, with a verdict on each.
        num_tokens: number of maskable tokens.
    """

    counts: tuple[int, ...]
    entropy: tuple[float, ...]
    cross_entropy: tuple[float, ...]
    errors: tuple[float, ...]
    ranges: tuple[CalibrationRange, ...]
    num_tokens: int

    @property
    def differs(self) -> bool:
        """Whether entropy and cross-entropy differ beyond their errors in any range."""
        return any(part.differs for part in self.ranges)

    def __str__(self) -> str:
        told = []
        for word, sign in (("over", 1), ("under", -1)):
            where = [
                f"{part.where} (entropy {part.entropy:.3g}, true tokens "
                f"{part.cross_entropy:.3g} ± {part.error:.2g})"
                for part in self.ranges
                if part.differs and sign * part.gap > 0
            ]
            if where:
                told.append(
                    f"{word}confident with {', '.join(where)} of {self.num_tokens} tokens "
                    "revealed, in nats a token"
                )
        return "; ".join(told) or "calibrated as far as these sequences show"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A matplotlib Figure of both curves over the share revealed, written to `path` if given.

        Needs the extra `plot`.
        """
        figure, (axes,) = new_figure(1)
        share = np.array(self.counts) / self.num_tokens
        axes.plot(share, self.entropy, marker="o", markersize=3, label="entropy of the prediction")
        style = {"marker": "o", "markersize": 3, "capsize": 2, "linewidth": 1}
        axes.errorbar(
            share, self.cross_entropy, self.errors, label="cross-entropy of the true token", **style
        )
        for part in self.ranges:
            if part.differs:
                ends = part.first / self.num_tokens, part.last / self.num_tokens
                axes.axvspan(*ends, color="tab:red", alpha=0.1, linewidth=0)
        axes.set(xlabel="share of tokens revealed", ylabel="nats per hidden token", xlim=(0, 1))
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize="small")
        if path is not None:
            save_picture(figure, path)
        return figure


def calibrate(
    entropy: Array, cross_entropy: Array, variance: Array, counts: Integers, num_tokens: int
) -> Calibration:
    """Compare both by count and by range.

    Args:
        entropy, cross_entropy: [S, C], finite.
        variance: [S, C], of the cross-entropy if the model were right, in nats^2. Where few
            sequences happen to hold no rare token, their own spread is too small; this is not.
        counts: [C].
        num_tokens: number of maskable tokens.
    """
    from scipy.special import stdtrit

    number, gaps = len(entropy), cross_entropy - entropy
    parts = [part for part in np.array_split(np.arange(len(counts)), RANGES) if len(part)]
    limit = float(stdtrit(number - 1, 1 - (1 - LEVEL) / 2 / len(parts)))
    ranges = []
    for part in parts:
        # The same tokens are hidden at neighbouring counts, so averaging over counts gains nothing.
        error = _error(gaps[:, part].mean(1)[:, None], variance[:, part].mean(1)[:, None])[0]
        gap = float(gaps[:, part].mean())
        ranges.append(
            CalibrationRange(
                int(counts[part[0]]),
                int(counts[part[-1]]),
                float(entropy[:, part].mean()),
                float(cross_entropy[:, part].mean()),
                float(error),
                bool(abs(gap) > max(limit * error, 1e-9)),
            )
        )
    return Calibration(
        tuple(counts.tolist()),
        tuple(entropy.mean(0).tolist()),
        tuple(cross_entropy.mean(0).tolist()),
        tuple(_error(gaps, variance).tolist()),
        tuple(ranges),
        num_tokens,
    )


def _error(gaps: Array, variance: Array) -> Array:
    """Standard errors of the means of [S, ...] over sequences."""
    number: int = len(gaps)
    own = gaps.std(0, ddof=1) / math.sqrt(number)
    found: Array = np.maximum(own, np.sqrt(variance.sum(0)) / number)
    return found


def explain(calibration: Calibration, method: str) -> str | None:
    """One sentence of warning for a model that is not calibrated; None for one that is."""
    if not calibration.differs:
        return None
    return (
        f"the model is {calibration}; the profile uses the {method.replace('_', '-')}, and "
        "profile.measurement.calibration.plot() shows both"
    )
