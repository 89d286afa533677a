"""The cost of a plan before sampling: the information profile h(n) and its consequences.

h(n) is the mean entropy of one more token given n revealed ones, over random subsets and positions.
With exact conditionals and a uniformly random order, revealing groups that start at n_0 = 0 < n_1 <
... costs

    E over orders of KL(data || sampler given the order)
        = sum_i sum_{j = n_i}^{n_{i+1} - 1} (h(n_i) - h(j)).

This is the expected divergence of "Optimal Inference Schedules for Masked Diffusion Models" (arXiv
2511.04647) and of Lavenant and Zanella, "Error Bounds and Optimal Schedules for Masked Diffusions
with Factorized Approximations" (arXiv 2510.25544). It is an upper bound on KL(data || law of the
sampler's output), in which the order is averaged out: by Jensen's inequality, and often well above
it. `mdm_schedules.information.plan_divergence` and `ancestral_divergence` compute both divergences
for distributions small enough to enumerate.

Two cases are not covered. For another order (low_confidence, say) the cost is a heuristic that a
measurement must confirm. A remasking plan draws more tokens together than its plan shows and may
not be exact even with one token per step, so the profile gives no cost for it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mdm_schedules import sketch
from mdm_schedules.checks import check_int, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.information.calibration import calibrate, explain
from mdm_schedules.information.curves import choose_and_fit, fit_with_rise, project
from mdm_schedules.information.data import check_data
from mdm_schedules.information.estimate import (
    METHODS,
    Measurement,
    choose_counts,
    doubt,
    measure,
)
from mdm_schedules.information.exact import enumerate_profile
from mdm_schedules.information.files import load_profile, save_profile
from mdm_schedules.information.plans import (
    best_beta,
    optimal_plans,
    plan_as_schedule,
    plan_cost,
    schedule_for_all_steps,
)
from mdm_schedules.plan import check_plan
from mdm_schedules.schedules import Beta, Schedule

Array = npt.NDArray[np.float64]

MAX_TOKENS = 1 << 20
_IMPOSSIBLE = (
    "the model gives a token of the sequences probability 0, so the cross-entropy is infinite"
)


@dataclass(frozen=True, init=False, repr=False)
class InformationProfile:
    """h(n) for n = 0, ..., N - 1, in nats: non-increasing and >= 0; immutable.

    Only a profile that was measured by cross-entropy may rise: there a model may be wrong with a
    few tokens revealed and right with none.

    Args:
        h: N numbers >= 0. A profile that rises somewhere is projected onto the nearest
            non-increasing curve, with a warning.
        measurement: how h was estimated, if it was.

    Raises:
        InvalidTypeError, InvalidValueError: not a sequence of 1 to 2**20 finite numbers >= 0.
    """

    values: tuple[float, ...]
    measurement: Measurement | None

    def __init__(self, h: Any, *, measurement: Measurement | None = None) -> None:
        may_rise = measurement is not None and measurement.method == "cross_entropy"
        # A tuple of floats, so that profiles are hashable and cannot change.
        object.__setattr__(self, "values", tuple(_check_profile(h, may_rise).tolist()))
        object.__setattr__(self, "measurement", measurement)

    @property
    def h(self) -> torch.Tensor:
        """The profile, float64 [N], in nats (a copy)."""
        return torch.tensor(self.values, dtype=torch.float64)

    @property
    def num_tokens(self) -> int:
        """N, the number of tokens that are masked at the start."""
        return len(self.values)

    @property
    def entropy(self) -> float:
        """Sum of h: the entropy of the whole sequence in nats (chain rule).

        Of a profile measured by cross-entropy, the cross-entropy at one token per pass.
        """
        return float(sum(self.values))

    def __repr__(self) -> str:
        how = (
            f", {self.measurement.curve} curve, {self.measurement.passes} passes"
            if self.measurement
            else ""
        )
        return (
            f"InformationProfile({self.num_tokens} tokens, {self.values[0]:.3g} to "
            f"{self.values[-1]:.3g} nats{how})"
        )

    def _repr_html_(self) -> str:
        ends = ("0", str(self.num_tokens))
        drawn = sketch.curve(self.values, "tokens revealed", ends, self.values[0])
        plans = [f"{steps} passes" for steps in (4, 8, 16, 32) if steps <= self.num_tokens]
        costs = [f"{self.cost(self.optimal_plan(int(name.split()[0]))):.3g}" for name in plans]
        least = sketch.table(["least cost, nats", *plans], [["best plan", *costs]])
        return sketch.view(repr(self), drawn, least)

    @property
    def _h(self) -> Array:
        return np.array(self.values)

    # --- sources of profiles

    @classmethod
    def from_distribution(cls, distribution: Any) -> InformationProfile:
        """The exact profile of a small distribution, from the entropies of all its marginals.

        Args:
            distribution: probabilities [d]*n, one axis per token; must sum to 1 within 1e-6 (and is
                divided by its sum).

        Raises:
            InvalidTypeError, InvalidValueError: not real numbers; axes of unequal length; negative
                or NaN; another sum; or more than 2**28 marginal probabilities, (d + 1)^n.
        """
        return cls(enumerate_profile(distribution))

    @classmethod
    def estimate(
        cls,
        model: Any,
        sequences: Any,
        *,
        maskable: torch.Tensor | Sequence[torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        mask_token_id: int | None = None,
        num_tokens: int | None = None,
        counts: Sequence[int] | None = None,
        passes: int | None = None,
        method: str = "auto",
        batch_size: int = 16,
        seed: int = 0,
        progress: bool = False,
    ) -> InformationProfile:
        """Estimate the profile of a model on sequences of its task.

        Random subsets of each sequence are revealed. The same logits give the entropy of the
        model's prediction for each remaining token and the cross-entropy of the true one. Where the
        model is not calibrated the two differ, and only the cross-entropy predicts what a plan
        costs. The curve through the means is one of four kinds, chosen by the cost of its plans on
        held-out sequences. `measurement` has the choices, and `measurement.calibration` where and
        by how much the model is over- or underconfident.

        Args:
            model: a model that `AutoModelForMaskedDiffusion` loaded, or any object with a method
                `denoiser()`; a `Denoiser`, (tokens, rows) -> logits, as for `sample`; or a
                callable, tokens [B, L] -> logits [B, L, V] or an output with `.logits`. The logits
                at a position must predict that position's token, as in a transformers masked
                language model. A module is run without dropout. L is bounded by the denoiser's
                `max_length` or by `config.max_position_embeddings`, if there is one.
            sequences: clean token ids [S, L], S >= 2, or S rows of different lengths: reference
                answers. 16 give plans within a few percent of the optimum. Outputs of the model
                itself show nothing about its calibration; give method="entropy" with them.
            maskable: bool [S, L], or S rows as long as the sequences: True at the tokens to be
                generated; other tokens, such as a prompt, are always visible. None: all.
            attention_mask: bool [S, L], False on padding on the left; None without padding.
            mask_token_id: by default that of `model.config`. Its probability is left out of every
                entropy.
            num_tokens: N, the number of tokens that the profile is for; by default the median of
                the sequences'. Sequences of other numbers are measured at the same shares of them.
            counts: increasing numbers of revealed tokens to measure, from 0 to N - 1. By default
                all if N <= 64, else 64, denser at both ends.
            passes: budget of forward passes, counting every sequence of a batch; by default one for
                each sequence and count. A smaller budget measures fewer counts, a larger one draws
                more subsets.
            method: "auto" makes the profile from the cross-entropy of the true tokens if it differs
                from the entropy beyond its errors (t-tests over sequences in four ranges of counts,
                95 % together), and else from the entropy, which is less noisy; "entropy" and
                "cross_entropy" decide it.
            batch_size: sequences per forward call; does not change the result beyond rounding.
            seed: seed of the subsets, >= 0. No global generator is used.
            progress: show a progress bar.

        Raises:
            InvalidTypeError, InvalidValueError: a wrong argument (before the first pass), or
                unusable logits.

        Warns:
            UserWarning: the model is over- or underconfident (only if method is "auto"); or there
                are fewer than 8 sequences, or the model is almost always certain, so that the
                standard errors are too small to be trusted.
        """
        if method not in METHODS:
            raise InvalidValueError(
                f"method must be {', '.join(map(repr, METHODS[:-1]))} or {METHODS[-1]!r}, got "
                f"{shown(method)}"
            )
        batch_size = check_int("batch_size", batch_size, 1)
        seed = check_int("seed", seed, 0)
        groups = check_data(model, sequences, maskable, mask_token_id, attention_mask)
        sizes = sorted(data.num_tokens for data in groups for _ in data.index)
        number, n = len(sizes), sizes[len(sizes) // 2]
        if num_tokens is not None:
            n = check_int("num_tokens", num_tokens, 1, MAX_TOKENS)
        chosen, rounds = choose_counts(number, n, counts, passes)
        # Everything that can be wrong with the input has been reported by now.
        read = measure(model, groups, chosen, n, rounds, seed, batch_size, progress)
        # A token of probability 0 has infinite cross-entropy, of which no curve can be made.
        finite = bool(np.isfinite(read.cross_entropy).all())
        if method == "cross_entropy" and not finite:
            raise InvalidValueError(f"{_IMPOSSIBLE}; use method='entropy'")
        calibration = calibrate(*read[:3], chosen, n) if finite else None
        trouble: list[str | None] = []
        if method == "auto":
            differs = calibration is not None and calibration.differs
            method = "cross_entropy" if differs else "entropy"
            if calibration is None:
                trouble.append(f"{_IMPOSSIBLE}; the profile uses the entropy")
            else:
                trouble.append(explain(calibration, method))
        values = read.cross_entropy if method == "cross_entropy" else read.entropy
        # A warning, not an error: the profile itself is usable, only its errors are too small.
        trouble.append(doubt(values, chosen, n))
        for text in filter(None, trouble):
            warnings.warn(text, stacklevel=2)
        fit = fit_with_rise if method == "cross_entropy" else choose_and_fit
        curve, kind, scores = fit(values, chosen, n)
        # The raw means are kept beside the fit, so that its quality can be judged later.
        record = Measurement(
            counts=tuple(chosen.tolist()),
            means=tuple(values.mean(0).tolist()),
            standard_errors=tuple((values.std(0, ddof=1) / np.sqrt(number)).tolist()),
            passes=read.passes,
            sequences=number,
            method=method,
            seed=seed,
            curve=kind,
            held_out=tuple(scores.items()),
            calibration=calibration,
        )
        return cls(curve, measurement=record)

    # --- consequences of a profile

    def cost(self, plan: Any) -> float:
        """Expected KL(data || sampler given the reveal order) of a plan, in nats.

        Exact for a uniformly random order without remasking, where it is an upper bound on the
        divergence of the sampler's own law (see `plan_divergence`). For a profile measured by
        cross-entropy the cost is what the plan adds to the divergence of one token per pass, which
        is not 0 where the model is wrong.

        Args:
            plan: integers >= 0 [steps] that sum to N.

        Raises:
            InvalidTypeError, InvalidValueError: not such a plan.
        """
        # `check_plan` also takes [B, steps]; a single profile prices a single row.
        row = check_plan(plan, torch.tensor([self.num_tokens]))
        if np.ndim(plan) != 1:
            raise InvalidValueError(
                f"a plan must be one row of integers [steps], got shape {np.shape(plan)}"
            )
        return plan_cost(self._h, row[0].numpy())

    def optimal_plan(self, steps: int) -> torch.Tensor:
        """The plan of least cost, LongTensor [steps], all >= 1, by an exact dynamic programme.

        O(steps N log N): seconds for 4,096 tokens. Among equal costs the last steps are the
        largest.

        Raises:
            InvalidValueError: more steps than tokens.
        """
        steps = self._check_steps("optimal_plan", steps)
        return torch.from_numpy(optimal_plans(self._h, [steps])[steps])

    def fit_beta(self, steps: int) -> Beta:
        """The Beta(a, b) schedule whose plan in `steps` steps costs least.

        Deterministic: a search over the paper's 10 x 10 grid (arXiv 2509.13866, App. E.1) and a
        grid from 0.05 to 6.4, then local refinement. The cost is never above that of the paper's
        grid.
        """
        return best_beta(self._h, self._check_steps("fit_beta", steps))

    def schedule(self, steps: int | None = None) -> Schedule:
        """A Tabulated schedule near the best plan at every step count, or the best one for `steps`.

        Without `steps` it follows the density |h'|^(1/2) of the continuous limit, or the mean of
        the best plans for several step counts, whichever is nearer to the optimum at 2, 4, ..., 32
        steps. With `steps`, its plan in that many steps is exactly the best plan.
        """
        if steps is None:
            return schedule_for_all_steps(self._h)
        return plan_as_schedule(
            optimal_plans(self._h, [self._check_steps("schedule", steps)])[steps]
        )

    def _check_steps(self, call: str, steps: Any) -> int:
        # Each step of these plans reveals at least one token.
        number = check_int("steps", steps, 1)
        if number > self.num_tokens:
            raise InvalidValueError(
                f"{number} steps cannot each reveal one of {self.num_tokens} tokens; "
                f"for example profile.{call}({self.num_tokens})"
            )
        return number

    # --- files

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write profile.safetensors into the folder `path`, made if missing."""
        save_profile(path, self.values, self.measurement)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> InformationProfile:
        """Read a profile that `save_pretrained` wrote into the folder `path`.

        Raises:
            StorageError: nothing there, or unreadable.
            FormatError: not that format, of a newer major version, or with values that no profile
                has.
        """
        h, measurement = load_profile(path)
        return cls(h, measurement=measurement)


def _check_profile(h: Any, may_rise: bool = False) -> Array:
    try:
        array = np.array(h.detach().cpu().double().numpy() if isinstance(h, torch.Tensor) else h)
        if array.dtype.kind not in "fiu" or array.ndim != 1:
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(f"h must be a sequence of numbers [N], got {shown(h)}") from None
    if not 1 <= len(array) <= MAX_TOKENS:
        raise InvalidValueError(f"h must have 1 to {MAX_TOKENS} values, got {len(array)}")
    # Integers are allowed, but sums and logarithms need floats.
    array = array.astype(np.float64)
    # A negative conditional entropy is impossible, unlike a rise, which noise can cause.
    if not np.isfinite(array).all() or (array < 0).any():
        bad = array[~(array >= 0) | np.isinf(array)][0]
        raise InvalidValueError(f"h must hold finite entropies >= 0 in nats, got {bad}")
    rises = np.diff(array)
    if may_rise or not (rises > 0).any():
        return array
    # Rounding alone deserves no warning.
    if rises.max() <= 1e-12 * array.max():
        return np.minimum.accumulate(array)
    # Real data are noisy: project, and report where and by how much.
    projected = project(array)
    place = int(np.argmax(rises))
    warnings.warn(
        f"h rises (by {rises[place]:.3g} nats from {place} to {place + 1} revealed tokens), which "
        "no entropy does; it "
        "was projected onto the nearest non-increasing profile, which changed a value by up to "
        f"{np.abs(projected - array).max():.3g} nats",
        stacklevel=3,
    )
    return projected
