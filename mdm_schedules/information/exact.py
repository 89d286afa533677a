"""Small distributions by enumeration: profiles, and the divergence of the sampler's own law.

There are two divergences. *Given the order*: KL(data || sampler given the order in which
positions are revealed), averaged over orders; `InformationProfile.cost` computes it.
*Marginal*: KL(data || the law of the sampler's output), in which the order is averaged out first;
by Jensen's inequality it is never larger.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mdm_schedules.checks import check_distribution, check_int
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.information.plans import plan_cost
from mdm_schedules.plan import MAX_STEPS, check_plan
from mdm_schedules.schedules import Schedule

Array = npt.NDArray[np.float64]

MAX_STATES = 1 << 28  # marginal probabilities of one enumeration
MAX_WORK = 1 << 30  # multiplications of one law: 3^n pairs of subsets, times sentences and steps


class Divergence(NamedTuple):
    """KL from the data to a sampler in random order, in nats.

    Attributes:
        given_order: given the reveal order, averaged over orders; an upper bound on `marginal`.
        marginal: of the law of the sampler's output.
    """

    given_order: float
    marginal: float


def enumerate_profile(distribution: Any) -> Array:
    """h(n) = mean entropy of n + 1 tokens - mean entropy of n tokens, over all subsets.

    This is the chain rule, averaged over orders.
    """
    p = check_distribution(distribution, MAX_STATES, "use InformationProfile.estimate")
    n = p.ndim
    if p.shape[0] == 1:  # one letter carries no information; skip 2^n marginals
        return np.zeros(n)
    sums, subsets = np.zeros(n + 1), np.zeros(n + 1)

    def visit(marginal: Array, first: int) -> None:
        """Every marginal once: axes are summed away in increasing order."""
        positive = marginal[marginal > 0]
        sums[marginal.ndim] -= float((positive * np.log(positive)).sum())
        subsets[marginal.ndim] += 1
        for axis in range(first, marginal.ndim):
            visit(marginal.sum(axis), axis)

    visit(p, 0)
    sums[0] = 0.0  # the empty marginal is 1 but for rounding
    h = np.diff(sums / subsets)
    h[np.abs(h) < 1e-14] = 0.0
    # entropies are submodular, so only rounding is removed
    return np.minimum.accumulate(np.maximum(h, 0.0))


def plan_divergence(distribution: Any, plan: Any) -> Divergence:
    """Divergence of a plan in uniformly random order from the data, by enumeration of its law.

    Args:
        distribution: probabilities [d]*n, one axis per token, summing to 1 within 1e-6.
        plan: integers >= 0 [steps] that sum to n.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, or too many states (n is at most
            about 10).
    """
    p = check_distribution(distribution, MAX_STATES, "InformationProfile.cost bounds it")
    row = check_plan(plan, torch.tensor([p.ndim]))
    if np.ndim(plan) != 1:
        raise InvalidValueError(f"a plan must be one row [steps], got shape {np.shape(plan)}")
    sizes = row[0].numpy()
    sizes = sizes[sizes > 0]
    # All assignments of tokens to steps are equally likely.
    ways = math.factorial(p.ndim) / math.prod(math.factorial(int(size)) for size in sizes)
    weights = np.zeros((len(sizes), p.ndim + 1))
    weights[np.arange(len(sizes)), sizes] = 1.0
    return Divergence(
        plan_cost(enumerate_profile(p), sizes), _marginal(p, weights) + math.log(ways)
    )


def ancestral_divergence(distribution: Any, schedule: Schedule | str, steps: int) -> Divergence:
    """The divergence of ancestral sampling from the data, by enumeration of its law.

    Each token falls into step i by itself, with probability
    alpha(i / steps) - alpha((i - 1) / steps).

    Args:
        distribution: as for `plan_divergence`.
        schedule: a Schedule or its spec string.
        steps: forward passes, >= 1.

    Raises:
        InvalidTypeError, InvalidValueError: as for `plan_divergence`.
    """
    from mdm_schedules.lookup import get_schedule

    p = check_distribution(distribution, MAX_STATES, "InformationProfile.cost bounds it")
    steps, n = check_int("steps", steps, 1, MAX_STEPS), p.ndim
    alpha = get_schedule(schedule).alpha(np.arange(steps + 1) / steps)
    widths, h = np.diff(alpha), enumerate_profile(p)
    # Before a token's own step, a binomial number of the other tokens is revealed.
    known = np.arange(n)
    ways = np.array([math.comb(n - 1, k) for k in known])
    before = ways * alpha[:-1, None] ** known * (1 - alpha[:-1, None]) ** (n - 1 - known)
    given = n * float(widths @ (before @ h)) - float(h.sum())
    return Divergence(max(given, 0.0), _marginal(p, widths[:, None] ** np.arange(n + 1)))


def _marginal(p: Array, weights: Array) -> float:
    """KL(data || law), where a chain of revealed subsets has the weight of its steps.

    The weight of a chain is the product of weights[step, tokens revealed in that step]; a recursion
    over subsets sums over all chains.
    """
    n, steps = p.ndim, len(weights)
    support = np.argwhere(p > 0)
    work = 3**n * len(support) * steps
    if work > MAX_WORK:
        raise InvalidValueError(
            f"{n} tokens, {len(support)} sentences and {steps} steps need {work} operations, at "
            f"most {MAX_WORK} are done; InformationProfile.cost bounds the divergence"
        )
    data = p[p > 0]
    # Probability of each sentence's tokens in a subset (bit i: token i).
    shown = np.empty((1 << n, len(support)))
    for subset in range(1 << n):
        hidden = tuple(i for i in range(n) if not subset >> i & 1)
        where = tuple(0 if i in hidden else support[:, i] for i in range(n))
        shown[subset] = p.sum(hidden, keepdims=True)[where]
    law = np.zeros((steps + 1, 1 << n, len(support)))
    law[0, 0] = 1.0
    for subset in range(1 << n):
        # P(added tokens | subset) for every possible addition, as a product over single tokens.
        products = {0: np.ones(len(support))}
        # `added` runs through all subsets of the complement, in increasing order, so the product
        # without its lowest bit is already known.
        rest = (1 << n) - 1 & ~subset
        added = rest & -rest
        while added:
            lowest = added & -added
            products[added] = products[added ^ lowest] * shown[subset | lowest] / shown[subset]
            added = (added - rest) & rest
        for step in range(steps):
            for added, product in products.items():
                weight = weights[step, added.bit_count()]
                if weight:
                    law[step + 1, subset | added] += law[step, subset] * weight * product
    return float(data @ (np.log(data) - np.log(law[steps, -1])))
