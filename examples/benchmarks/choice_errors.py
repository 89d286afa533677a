"""Measures how often `tune` replaces linear by chance, and how often it finds a true gain.

    python examples/benchmarks/choice_errors.py --runs 60

Scores are synthetic: each instance has noise that all schedules share, and each schedule noise of
its own. In the null world no schedule is better than another. In the other world every schedule
that has revealed more than 60 % after half of the steps is better by so many standard errors of the
check; in the third, all instances are seeds of few prompts, on each of which schedules differ but
in the mean over prompts do not.
"""

import argparse
import zlib

import numpy as np

import mdm_schedules as mdm

WORLDS = {
    "null": {},
    "a gain of 3 standard errors": {"gain": 3.0},
    "null, seeds of 20 prompts": {"prompts": 20},
}
OWN = 0.5  # standard deviation of a schedule's own noise


class World:
    """An objective with 200 instances, whose held-out half decides."""

    metric_name = "score"
    num_instances, batch_size = 200, 200

    def __init__(self, seed, gain=0.0, prompts=None):
        self.seed, self.shared = seed, np.random.default_rng(seed).normal(0, 1, 200)
        # Two schedules differ by noise of variance 2 OWN^2, which 100 held-out instances average.
        self.gain = gain * OWN * np.sqrt(2 / 100)
        self.clusters = None if prompts is None else [i % prompts for i in range(200)]

    def plan_key(self, schedule, steps):
        """Return the plan: schedules that round to the same one are the same."""
        return str(schedule.plan(64, 8).tolist())

    def _noise(self, schedule, number, scale):
        plan = zlib.crc32(self.plan_key(schedule, None).encode())
        rng = np.random.default_rng([self.seed, plan, number])
        return rng.normal(0, scale, number)

    def __call__(self, schedule, instances):
        scores = self.shared + self._noise(schedule, 200, OWN)
        scores = scores + self.gain * (schedule.alpha(0.5) > 0.6)
        if self.clusters is not None:
            scores = scores + self._noise(schedule, max(self.clusters) + 1, OWN)[self.clusters]
        return scores[instances]


def count(runs, n_trials=12, **options):
    """Return in how many runs linear was replaced, and the mean error of the reported gain."""
    replaced, errors = 0, []
    for seed in range(runs):
        world = World(seed, **options)
        found = mdm.tune(world, method="random", n_trials=n_trials, seed=seed)
        replaced += found.choice.won
        if found.choice.won:
            truth = world.gain * (found.best_schedule.alpha(0.5) > 0.6)
            errors.append((found.choice.decided.difference, found.choice.gain.difference, truth))
    return replaced, errors


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--world", choices=list(WORLDS), action="append", help="default: all")
    args = parser.parse_args()
    print("| world | linear replaced | the gain that decided | reported | true |")
    print("|---" * 5 + "|")
    for name in args.world or WORLDS:
        replaced, errors = count(args.runs, args.trials, **WORLDS[name])
        means = [f"{mean:+.3f}" for mean in np.mean(errors, axis=0)] if errors else [""] * 3
        print(f"| {name} | {replaced} of {args.runs} | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
