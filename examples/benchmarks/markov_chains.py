"""Measures the cost of schedules, and of plans from 16 sequences, where all posteriors are known.

    python examples/benchmarks/markov_chains.py --output markov_chains.json

The worlds have 64 tokens: stationary Markov chains over 16 letters, and blocks of four bits with
even parity. The first table gives the KL divergence in nats between data and sampler in random
order, from the exact profile. The second estimates a profile from 16 sequences in 1,009 passes, and
gives the exact cost of the plans made from it over the least possible cost. Takes about three
minutes.
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
from scipy.special import gammaln, xlogy
from tqdm import tqdm

import mdm_schedules as mdm

TOKENS, LETTERS = 64, 16
SCHEDULES = ("linear", "sine", "squared_sine", "cosine", "beta(a=0.9, b=0.3)", "beta(a=1, b=0.2)")
GRID = [mdm.Beta(a / 10, b / 10) for a in range(1, 11) for b in range(1, 11)]  # the paper's


def choose(n, k):
    """Return binomial coefficients, 0 outside Pascal's triangle."""
    n, k = np.asarray(n), np.asarray(k)
    inside = (k >= 0) & (k <= n)
    n, k = np.where(inside, n, 0), np.where(inside, k, 0)
    return np.where(inside, np.exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)), 0.0)


class Chain:
    """A stationary Markov chain with its sequences, exact posteriors and exact profile."""

    def __init__(self, transition):
        self.mask = len(transition)
        self.powers = np.stack([np.linalg.matrix_power(transition, step) for step in range(TOKENS)])
        self.start = np.linalg.matrix_power(transition, 1 << 16).mean(0)
        # distance TOKENS means that no token is revealed on that side
        none = np.broadcast_to(self.start, transition.shape), np.ones_like(transition)
        self.left = torch.from_numpy(np.concatenate([self.powers, none[0][None]]))
        self.right = torch.from_numpy(np.concatenate([self.powers, none[1][None]]))

    def sequences(self, number, seed):
        """Draw token ids [number, TOKENS]."""
        uniform = np.random.default_rng(seed).random((TOKENS, number))
        state = np.searchsorted(self.start.cumsum(), uniform[0]).clip(max=self.mask - 1)
        rows = [state]
        for u in uniform[1:]:
            state = (u[:, None] > self.powers[1].cumsum(1)[state]).sum(1).clip(max=self.mask - 1)
            rows.append(state)
        return torch.from_numpy(np.stack(rows, 1))

    def __call__(self, tokens, rows):
        """Denoise with the exact posteriors.

        By the Markov property they depend on the nearest revealed tokens only.
        """
        place = torch.arange(TOKENS)
        shown = tokens != self.mask
        before = torch.where(shown, place, -1).cummax(1).values
        after = torch.where(shown, place, TOKENS).flip(1).cummin(1).values.flip(1)
        row, column = rows // TOKENS, rows % TOKENS
        before, after = before[row, column], after[row, column]
        left, right = tokens[row, before.clamp(min=0)], tokens[row, after.clamp(max=TOKENS - 1)]
        far = (
            torch.where(before < 0, TOKENS, column - before),
            torch.where(after == TOKENS, TOKENS, after - column),
        )
        none = before < 0, after == TOKENS
        left, right = left.masked_fill(none[0], 0), right.masked_fill(none[1], 0)
        return (self.left[far[0], left] * self.right[far[1], :, right]).log()

    def profile(self):
        """Return the exact profile h(n).

        It sums the entropies given the nearest revealed tokens at distances l and r (0 for none),
        weighted by how often these are the nearest.
        """
        power, n = self.powers, np.arange(TOKENS)
        pair = [-xlogy(joint, joint).sum() for joint in self.start[:, None] * power]  # H(X_0, X_l)
        one, h = -xlogy(self.start, self.start).sum(), np.zeros(TOKENS)
        for distance in range(1, TOKENS):
            ways = sum(choose(TOKENS - 1 - i - distance, n - 1) for i in range(TOKENS - distance))
            h += 2 * (pair[distance] - one) * ways  # at either end of the sequence
        for left in range(1, TOKENS):
            for right in range(1, TOKENS - left):
                joint = self.start[:, None, None] * power[left][:, :, None] * power[right]
                ways = (TOKENS - left - right) * choose(TOKENS - 1 - left - right, n - 2)
                h += (-xlogy(joint, joint).sum() - pair[left + right]) * ways
        # with nothing revealed, every token has the entropy of the stationary law
        h[0] += TOKENS * one
        return mdm.InformationProfile(np.minimum.accumulate(h / TOKENS / choose(TOKENS - 1, n)))


class Parity:
    """Blocks of four bits, uniform but for an even sum: three bits determine the fourth."""

    mask = 2

    def sequences(self, number, seed):
        """Draw token ids [number, TOKENS]."""
        blocks = np.random.default_rng(seed).integers(0, 2, (number, TOKENS // 4, 4))
        blocks[:, :, 3] = blocks[:, :, :3].sum(2) % 2
        return torch.from_numpy(blocks.reshape(number, TOKENS))

    def __call__(self, tokens, rows):
        """Denoise with the exact posteriors."""
        blocks = tokens.reshape(len(tokens), -1, 4)
        known = (blocks == self.mask).sum(2) == 1
        missing = torch.where(blocks == self.mask, 0, blocks).sum(2) % 2
        row, block = rows // TOKENS, rows % TOKENS // 4
        odd = torch.where(known, missing.double(), 0.5)[row, block]
        return torch.stack([1 - odd, odd], 1).log()

    def profile(self):
        """Return the exact profile: a bit is free unless its block's other three are revealed."""
        return mdm.InformationProfile(
            math.log(2) * (1 - choose(np.arange(TOKENS), 3) / choose(TOKENS - 1, 3))
        )


def worlds():
    """Map names to worlds."""

    def dirichlet(concentration):
        return np.random.default_rng(0).dirichlet(np.full(LETTERS, concentration), size=LETTERS)

    stay, step = np.eye(LETTERS), np.roll(np.eye(LETTERS), 1, axis=1)
    return {
        "sticky": Chain(0.92 * stay + 0.08 / (LETTERS - 1) * (1 - stay)),
        "peaky": Chain(dirichlet(0.05)),
        "less peaky": Chain(dirichlet(0.1)),
        "well mixed": Chain(dirichlet(1.0)),
        "ring": Chain((2 * stay + step + step.T) / 4),
        "drift": Chain(0.98 * step + 0.02 / LETTERS),
        "parity": Parity(),
    }


def exact_costs(profile, steps):
    """Return the cost in nats of each schedule."""
    costs = {name: profile.cost(mdm.get_schedule(name).plan(TOKENS, steps)) for name in SCHEDULES}
    costs["best Beta of the grid"] = min(profile.cost(beta.plan(TOKENS, steps)) for beta in GRID)
    costs["fit_beta"] = profile.cost(profile.fit_beta(steps).plan(TOKENS, steps))
    costs["schedule()"] = profile.cost(profile.schedule().plan(TOKENS, steps))
    costs["optimal_plan"] = profile.cost(profile.optimal_plan(steps))
    return costs


def estimated_costs(world, exact, steps, repeats, sequences):
    """Return the mean ratio of exact to least cost, and the curves chosen.

    The mean is over repeats: steps -> {linear, optimal_plan, fit_beta}.
    """
    ratios = {k: {"linear": [], "optimal_plan": [], "fit_beta": []} for k in steps}
    curves = {}
    for seed in tqdm(range(repeats), leave=False, disable=None):
        sample = world.sequences(sequences, 1000 + seed)
        profile = mdm.InformationProfile.estimate(
            world, sample, mask_token_id=world.mask, passes=64 * sequences, seed=seed
        )
        curves[profile.measurement.curve] = curves.get(profile.measurement.curve, 0) + 1
        for k in steps:
            least = exact.cost(exact.optimal_plan(k))
            plans = (
                mdm.Linear().plan(TOKENS, k),
                profile.optimal_plan(k),
                profile.fit_beta(k).plan(TOKENS, k),
            )
            for values, plan in zip(ratios[k].values(), plans, strict=True):
                values.append(exact.cost(plan) / least)
    return {
        k: {name: float(np.mean(values)) for name, values in row.items()}
        for k, row in ratios.items()
    }, curves


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--world", action="append", choices=list(worlds()), help="may be repeated (default: all)"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=10, help="estimates per world (default 10)")
    parser.add_argument(
        "--sequences", type=int, default=16, help="sequences per estimate (default 16)"
    )
    parser.add_argument("--output", type=Path, help="write the figures into this JSON file too")
    args = parser.parse_args()
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    begin, results = time.monotonic(), {}
    chosen = {
        name: world for name, world in worlds().items() if not args.world or name in args.world
    }
    for name, world in chosen.items():
        profile = world.profile()
        costs = {k: exact_costs(profile, k) for k in args.steps}
        results[name] = {"entropy": profile.entropy, "h": profile.h.tolist(), "cost": costs}
        print(
            f"\n{name}: {profile.entropy:.1f} nats; cost in nats at "
            f"{', '.join(map(str, args.steps))} steps"
        )
        for row in costs[args.steps[0]]:
            print(f"  {row:22}" + "".join(f"{costs[k][row]:9.3f}" for k in args.steps))
        ratio = [costs[k]["linear"] / costs[k]["optimal_plan"] for k in args.steps]
        print(f"  {'linear / optimal_plan':22}" + "".join(f"{x:9.3f}" for x in ratio))
        if max(ratio) < 1.02:
            print("  linear is already optimal here, to 2 %")
    print(
        f"\nfrom {args.sequences} sequences: mean of {args.repeats} exact costs over the least "
        "possible"
    )
    steps = [k for k in args.steps if 4 <= k <= 16]
    print(f"  {'':12}{'steps':>6}{'linear':>9}{'optimal_plan':>14}{'fit_beta':>10}   curve")
    for name, world in chosen.items():
        ratios, curves = estimated_costs(
            world, world.profile(), steps, args.repeats, args.sequences
        )
        results[name]["estimated"] = {"ratio": ratios, "curves": curves}
        for k, row in ratios.items():
            figures = f"{row['linear']:9.3f}{row['optimal_plan']:14.3f}{row['fit_beta']:10.3f}"
            print(f"  {name:12}{k:6}{figures}   {curves}")
    print(f"\n{time.monotonic() - begin:.0f} s")
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
