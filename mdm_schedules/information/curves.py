"""From noisy means at some counts to a whole profile: four kinds of curve, chosen on held-out data.

Every curve is non-increasing and >= 0. A `Fit` takes means [C] at counts [C], and returns the
curve at 0, ..., N - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mdm_schedules.information.plans import optimal_plans, plan_cost

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Fit = Callable[[Integers, Array, Array, int], Array]

MAX_FOLDS = 8
_STEP_COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # step counts of the plans priced on held-out data
_WORSE = 0.05  # risk of leaving the default curve by chance, shared among its rivals
_RISE = 0.01  # risk of taking noise for a rise


def project(values: Array, weights: Array | None = None) -> Array:
    """The nearest non-increasing curve (weighted least squares): pool adjacent violators."""
    means: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    for value, mass in zip(
        values, np.ones(len(values)) if weights is None else weights, strict=True
    ):
        means.append(float(value))
        masses.append(float(mass))
        lengths.append(1)
        # A rise violates monotonicity: merge the two pools at their weighted mean.
        while len(means) > 1 and means[-2] <= means[-1]:
            total = masses[-2] + masses[-1]
            means[-2:] = [(means[-2] * masses[-2] + means[-1] * masses[-1]) / total]
            masses[-2:] = [total]
            lengths[-2:] = [lengths[-2] + lengths[-1]]
    return np.repeat(means, lengths)


def fit_isotonic(counts: Integers, means: Array, weights: Array, n: int) -> Array:
    """Monotone and nothing more; straight between the counts."""
    return np.interp(np.arange(n), counts, project(means, weights))


def fit_convex(counts: Integers, means: Array, weights: Array, n: int) -> Array:
    """Convex: a non-negative sum of a constant and hinges that reach 0 at a count or at N."""
    ends = np.append(counts[1:], n).astype(np.float64)
    hinges = np.maximum(ends - np.arange(n)[:, None], 0) / ends
    return _non_negative_sum(
        np.concatenate([np.ones((n, 1)), hinges], axis=1), counts, means, weights
    )


def fit_beta_mixture(counts: Integers, means: Array, weights: Array, n: int) -> Array:
    """Smooth, convex or not: a non-negative sum of a constant and falling Beta curves.

    Each term is 1 - BetaCDF(n / (N - 1); a, b) for a fixed pair (a, b).
    """
    return _non_negative_sum(_mixture_basis(n), counts, means, weights)


def fit_beta(counts: Integers, means: Array, weights: Array, n: int) -> Array:
    """One fall, c + d (1 - BetaCDF(n / (N - 1); a, b)), c, d >= 0: the fewest parameters."""
    side = np.geomspace(0.1, 20, 24)
    pairs = np.array([(a, b) for a in side for b in side])
    falls = _falls(pairs, counts, n).T
    share = weights / weights.sum()
    centred, middle = falls - (falls @ share)[:, None], means - means @ share
    height = np.maximum((centred * share) @ middle, 0) / np.maximum(centred**2 @ share, 1e-300)
    level = means @ share - height * (falls @ share)
    without_level = np.maximum((falls * share) @ means, 0) / np.maximum(falls**2 @ share, 1e-300)
    height, level = np.where(level < 0, without_level, height), np.maximum(level, 0)
    best = int(np.argmin(((level[:, None] + height[:, None] * falls - means) ** 2) @ share))
    curve: Array = (
        level[best] + height[best] * _falls(pairs[best : best + 1], np.arange(n), n)[:, 0]
    )
    return curve


# The first is the default. The others serve profiles for which it is too flexible or too rigid.
CURVES: dict[str, Fit] = {
    "beta_mixture": fit_beta_mixture,
    "isotonic": fit_isotonic,
    "convex": fit_convex,
    "beta": fit_beta,
}


def _falls(pairs: Array, counts: Integers, n: int) -> Array:
    from scipy.special import betainc

    falls: Array = 1 - betainc(pairs[:, 0], pairs[:, 1], (counts / max(n - 1, 1))[:, None])
    return falls


@lru_cache(maxsize=8)
def _mixture_basis(n: int) -> Array:
    side = np.geomspace(0.2, 20, 10)
    # Sharp falls (large a + b) are allowed only at the two ends; in the middle they would follow
    # the noise.
    pairs = np.array([(a, b) for a in side for b in side if min(a, b) <= 1 or a + b < 12])
    return np.concatenate([np.ones((n, 1)), _falls(pairs, np.arange(n), n)], axis=1)


def _non_negative_sum(basis: Array, counts: Integers, means: Array, weights: Array) -> Array:
    from scipy.optimize import nnls

    scale = np.sqrt(weights)
    coefficients, _ = nnls(
        basis[counts] * scale[:, None], means * scale, maxiter=100 * basis.shape[1]
    )
    return basis @ coefficients  # type: ignore[no-any-return]


def choose_and_fit(values: Array, counts: Integers, n: int) -> tuple[Array, str, dict[str, float]]:
    """Choose the kind of curve whose plans cost least on held-out sequences, and fit it to all.

    The sequences are split into at most MAX_FOLDS folds. Each kind is fitted without one fold; its
    best plans for several step counts are then priced with the raw means of that fold, and so on
    for every fold. A rival replaces the default only if its plans cost less by a one-sided paired
    t-test over the folds (5 % shared among the rivals): with few sequences, the smallest of several
    noisy costs often belongs to the noisiest curve.

    Args:
        values: [S, C], entropy per token of each sequence at each count; S >= 2.
        counts: increasing, from 0 to N - 1.
        n: N, the number of maskable tokens.

    Returns:
        The curve [N], its kind, and the held-out cost of each kind (1 is the mean over kinds).
    """
    from scipy.special import stdtrit

    # Each value is a mean over N - n hidden tokens: part of the noise falls with their number, and
    # part (between sequences) does not.
    weights = 1 / (1 / (n - counts) + 0.1)
    steps = [k for k in _STEP_COUNTS if k <= n // 4]
    folds = min(len(values), MAX_FOLDS)
    chosen, scores = next(iter(CURVES)), dict.fromkeys(CURVES, 1.0)
    if steps:
        which = np.arange(len(values)) % folds
        costs = {name: np.empty((folds, len(steps))) for name in CURVES}
        for fold in range(folds):
            rest, held_out = values[which != fold].mean(0), values[which == fold].mean(0)
            raw = np.interp(np.arange(n), counts, held_out)
            for name, curve in CURVES.items():
                plans = optimal_plans(_tidy(curve(counts, rest, weights, n)), steps)
                costs[name][fold] = [plan_cost(raw, plans[k]) for k in steps]
        typical = np.abs(np.mean([cost.mean(0) for cost in costs.values()], axis=0))
        # Costs near zero would turn rounding into large ratios.
        typical = np.maximum(typical, 1e-6 * values.mean() * n + 1e-300)
        relative = {name: (cost / typical).mean(1) for name, cost in costs.items()}
        scores = {name: float(cost.mean()) for name, cost in relative.items()}
        margin = float(stdtrit(folds - 1, 1 - _WORSE / (len(CURVES) - 1)))
        default = relative[chosen]
        for name, cost in relative.items():
            gain = default - cost
            certain = gain.mean() > margin * gain.std(ddof=1) / np.sqrt(folds)
            if certain and scores[name] < scores[chosen] - 1e-9:
                chosen = name
    return _tidy(CURVES[chosen](counts, values.mean(0), weights, n)), chosen, scores


def fit_with_rise(values: Array, counts: Integers, n: int) -> tuple[Array, str, dict[str, float]]:
    """`choose_and_fit` for a cross-entropy, which may rise before it falls.

    No entropy rises as more is revealed, but the cross-entropy of a model that is overconfident
    there does. A rise to the highest mean is taken for real if a paired t-test over the sequences
    says so at 99 %; else the curve falls throughout.
    """
    from scipy.special import stdtrit

    # Means over three neighbouring counts, so that one noisy count makes no peak.
    window = np.ones(min(3, len(counts)))
    near = np.convolve(np.ones(len(counts)), window, "same")
    smooth = np.stack([np.convolve(row, window, "same") for row in values]) / near
    peak = int(smooth.mean(0).argmax())
    rise = smooth[:, peak] - values[:, 0]
    limit = float(stdtrit(len(values) - 1, 1 - _RISE))
    if not peak or rise.mean() <= limit * rise.std(ddof=1) / np.sqrt(len(rise)):
        return choose_and_fit(values, counts, n)
    top = int(counts[peak])
    fall, kind, scores = choose_and_fit(values[:, peak:], counts[peak:] - top, n - top)
    means = np.append(values.mean(0)[:peak], fall[0])
    climb = np.minimum(project(means[::-1])[::-1], fall[0])
    return np.append(np.interp(np.arange(top), counts[: peak + 1], climb), fall), kind, scores


def _tidy(curve: Array) -> Array:
    """Remove the last bits by which a sum of falling terms may rise, or drop below 0."""
    return np.maximum(np.minimum.accumulate(curve), 0)
