"""Samplers of Optuna for whole plans: CMA-ES, and policy gradient on the task's own reward.

Both propose from what the finished trials lead to, generation by generation. They begin at the best
of the points that the space gives, look for the Beta that does best from there, and then bend it.
Their state is a function of the study's trials alone, so a resumed study goes on as it would have,
and several workers share it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mdm_schedules.tuning.spaces import REACH, PlanSpace

Array = npt.NDArray[np.float64]

POPULATION = 6
BETAS = 16  # proposals of (a, b); then they stay, and the waves are searched
WIDTH = 0.6  # of the policy at the start, in units of the parameters
NARROWER = 0.93  # its width from one generation to the next
PULL = 1.0  # length of a step, in widths, for advantages of one standard deviation
STEP = 0.4  # of CMA-ES at the start, in units of the parameters


class HistorySampler(BaseSampler):
    """What both samplers share.

    Args:
        space: of plans.
        seed: of the proposals.
        trial: number of the proposal.
    """

    def __init__(self, space: PlanSpace, seed: int, trial: int) -> None:
        self.space, self.given = space, len(space.points())
        self.rng = np.random.default_rng([seed, trial])
        self.fallback = RandomSampler(seed=seed)

    @abstractmethod
    def propose(self, start: Array, points: Array, losses: Array, bounds: Array) -> Array:
        """The next point [D].

        Args:
            start: where the search begins [D].
            points: what was tried since, [N, D].
            losses: what it cost, [N]; infinite for what was left early.
            bounds: least and largest value of each parameter, [D, 2].
        """

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters, within their bounds."""
        names = dict.fromkeys(("a", "b"), FloatDistribution(*self.space.bounds, log=True))
        return {**names, **dict.fromkeys(self.space.names, FloatDistribution(-REACH, REACH))}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A proposal, from the trials that are finished."""
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
        points, first = points.reshape(-1, len(names)), self.given + BETAS
        seen, cost = points[:first], losses[:first]
        if len(points) < first:
            found = np.zeros(len(names))
            found[:2] = self.beta(seen, cost)
        else:
            found = self.bent(seen[int(cost.argmin())], points[first:], losses[first:])
        return dict(zip(names, found.tolist(), strict=True))

    def beta(self, points: Array, losses: Array) -> Array:
        """Another (a, b), from those that were tried: points without waves."""
        flat, given = ~points[:, 2:].any(1), np.arange(len(points)) < self.given
        shapes = np.log(points[:, :2])
        if not (flat & given).any():
            return np.array([self.space.points()[0][name] for name in ("a", "b")])
        start = shapes[int(np.where(flat & given, losses, np.inf).argmin())]
        later, ends = flat & ~given, np.log([self.space.bounds] * 2)
        found = self.propose(start, shapes[later], losses[later], ends)
        return np.clip(np.exp(found), *self.space.bounds)

    def bent(self, start: Array, points: Array, losses: Array) -> Array:
        """Other waves on the Beta of the start, from what was tried with that Beta."""
        same = (points[:, :2] == start[:2]).all(1)
        ends = np.array([[-REACH, REACH]] * len(self.space.names))
        found = self.propose(start[2:], points[same, 2:], losses[same], ends)
        return np.concatenate([start[:2], np.clip(found, -REACH, REACH)])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Parameters that the space did not announce are drawn at random."""
        return self.fallback.sample_independent(study, trial, param_name, param_distribution)


class EvolutionSampler(HistorySampler):
    """CMA-ES. It reads the order of losses alone, so that what was left early counts as worst."""

    def propose(self, start: Array, points: Array, losses: Array, bounds: Array) -> Array:
        """See `HistorySampler.propose`."""
        from cmaes import CMA

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

    def propose(self, start: Array, points: Array, losses: Array, bounds: Array) -> Array:
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
