"""Policy gradient on the task's own reward, as a sampler of Optuna.

The policy is a Gaussian over the parameters. A generation of proposals is scored on the same
instances and seeds. The advantage of each is its score less the mean of the others (REINFORCE with
a leave-one-out baseline), so that what all share cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from mdm_schedules.tuning.spaces import Space

Array = npt.NDArray[np.float64]

POPULATION = 8
WIDTH = 0.6  # of the policy at the start, in units of the parameters
NARROWER = 0.93  # its width from one generation to the next
PULL = 1.0  # length of a step, in widths, for advantages of one standard deviation


class ReinforceSampler(BaseSampler):
    """Proposes from the policy that the finished trials lead to.

    The state is a function of the study's trials alone, so a resumed study goes on as it would
    have, and several workers share it.

    Args:
        space: of float parameters on a linear scale, whose first point is where the policy starts.
        seed: of the proposals.
        trial: number of the proposal.
    """

    def __init__(self, space: Space, seed: int, trial: int) -> None:
        self.start = space.points()[0]
        self.rng = np.random.default_rng([seed, trial])
        self.fallback = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters, within their bounds."""
        from mdm_schedules.tuning.spaces import REACH

        return {name: FloatDistribution(-REACH, REACH) for name in self.start}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A draw from the present policy."""
        names = list(search_space)
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        rows = [one for one in finished if one.values and set(names) <= set(one.params)]
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        mean, width = policy(self.start, names, rows, sign)
        low, high = next(
            (one.low, one.high)
            for one in search_space.values()
            if isinstance(one, FloatDistribution)
        )
        drawn = np.clip(mean + width * self.rng.normal(size=len(names)), low, high)
        return dict(zip(names, drawn.tolist(), strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Parameters that the space did not announce are drawn at random."""
        return self.fallback.sample_independent(study, trial, param_name, param_distribution)


def policy(
    start: Mapping[str, float], names: Sequence[str], rows: Sequence[FrozenTrial], sign: float
) -> tuple[Array, float]:
    """Mean and width of the policy after whole generations of finished trials."""
    mean = np.array([start[name] for name in names])
    width = WIDTH
    for begin in range(0, len(rows) - POPULATION + 1, POPULATION):
        part = rows[begin : begin + POPULATION]
        points = np.array([[one.params[name] for name in names] for one in part])
        scores = sign * np.array([one.values[0] for one in part])
        if begin == 0:
            mean = points[int(scores.argmax())]  # the given points show where to start
            continue
        # Leave-one-out baseline; the division makes the step independent of the metric's scale.
        advantages = (scores - scores.mean()) * POPULATION / (POPULATION - 1)
        scale = float(scores.std())
        if scale > 0:
            gradient = (advantages[:, None] * (points - mean)).mean(0) / (scale * width)
            mean = mean + PULL * width * gradient
        width *= NARROWER
    return mean, width
