"""Samplers of Optuna for whole plans: CMA-ES, and policy gradient on the task's own reward.

Both propose from what the finished trials lead to, generation by generation, and begin at the best
of the points that the space gives. Their state is a function of the study's trials alone, so a
resumed study goes on as it would have, and several workers share it.
"""

from __future__ import annotations

from abc import abstractmethod
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
STEP = 0.4  # of CMA-ES at the start, in units of the parameters


class HistorySampler(BaseSampler):
    """What both samplers share.

    Args:
        space: of float parameters on a linear scale.
        seed: of the proposals.
        trial: number of the proposal.
    """

    def __init__(self, space: Space, seed: int, trial: int) -> None:
        self.given = space.points()
        self.rng = np.random.default_rng([seed, trial])
        self.fallback = RandomSampler(seed=seed)

    @abstractmethod
    def propose(self, start: Array, points: Array, losses: Array, reach: float) -> Array:
        """The next point [D].

        Args:
            start: the best given point [D].
            points: what was tried since, [N, D].
            losses: what it cost, [N]; infinite for what was left early.
            reach: bound of all parameters.
        """

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters, within their bounds."""
        from mdm_schedules.tuning.spaces import REACH

        return {name: FloatDistribution(-REACH, REACH) for name in self.given[0]}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A proposal, from the trials that are finished."""
        from mdm_schedules.tuning.spaces import REACH

        names = list(search_space)
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        rows = [
            one
            for one in study.get_trials(deepcopy=False, states=states)
            if set(names) <= set(one.params)
        ]
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        losses = np.array(
            [sign * one.values[0] if one.state == TrialState.COMPLETE else np.inf for one in rows]
        )
        points = np.array([[one.params[name] for name in names] for one in rows])
        count = len(self.given)
        start = np.array([self.given[0][name] for name in names])
        if len(rows) and np.isfinite(losses[:count]).any():
            start = points[int(losses[:count].argmin())]
        found = self.propose(start, points[count:].reshape(-1, len(names)), losses[count:], REACH)
        return dict(zip(names, np.clip(found, -REACH, REACH).tolist(), strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Parameters that the space did not announce are drawn at random."""
        return self.fallback.sample_independent(study, trial, param_name, param_distribution)


class EvolutionSampler(HistorySampler):
    """CMA-ES. It reads the order of losses alone, so that what was left early counts as worst."""

    def propose(self, start: Array, points: Array, losses: Array, reach: float) -> Array:
        """See `HistorySampler.propose`."""
        from cmaes import CMA

        bounds = np.array([[-reach, reach]] * len(start))
        seed = int(self.rng.integers(2**31))
        search = CMA(start, STEP, bounds=bounds, seed=seed, population_size=POPULATION)
        for begin in range(0, len(points) - POPULATION + 1, POPULATION):
            part = slice(begin, begin + POPULATION)
            search.tell(list(zip(points[part], losses[part].tolist(), strict=True)))
        return np.asarray(search.ask())


class ReinforceSampler(HistorySampler):
    """A Gaussian policy. A generation of proposals is scored on the same instances and seeds.

    The advantage of each is its score less the mean of the others (REINFORCE with a leave-one-out
    baseline), so that what all share cancels.
    """

    def propose(self, start: Array, points: Array, losses: Array, reach: float) -> Array:
        """See `HistorySampler.propose`."""
        whole = np.isfinite(losses)
        mean, width = policy(start, points[whole], losses[whole])
        return mean + width * self.rng.normal(size=len(start))


def policy(start: Array, points: Array, losses: Array) -> tuple[Array, float]:
    """Mean and width of the policy after whole generations of finished trials."""
    mean, width = start, WIDTH
    for begin in range(0, len(points) - POPULATION + 1, POPULATION):
        part = slice(begin, begin + POPULATION)
        # Leave-one-out baseline; the division makes the step independent of the metric's scale.
        advantages = (losses[part].mean() - losses[part]) * POPULATION / (POPULATION - 1)
        scale = float(losses[part].std())
        if scale > 0:
            gradient = (advantages[:, None] * (points[part] - mean)).mean(0) / (scale * width)
            mean = mean + PULL * width * gradient
        width *= NARROWER
    return mean, width
