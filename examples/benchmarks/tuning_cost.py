"""Measures the cost of each way of tuning a Beta schedule, in passes.

    python examples/benchmarks/tuning_cost.py --output tuning_cost.json

It counts the passes until the chosen Beta is within 5 % of the best of the paper's whole grid. The
world is the sticky Markov chain of markov_chains.py, whose posteriors and costs are known exactly:
64 tokens in 8 steps, in random order. The searches score (a, b) by teacher-forced likelihood, the
least noisy measure, on the same sequences for all; the profile route estimates an information
profile and fits (a, b) to it. Each budget is spent several times on different sequences; its figure
is the mean ratio of the exact cost to the least cost of the grid. A pass is one sequence through
the model.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from markov_chains import GRID, TOKENS, worlds
from tqdm import tqdm

import mdm_schedules as mdm
from mdm_schedules.tuning import TeacherForcedObjective

STEPS, CLOSE = 8, 1.05
INSTANCES = (4, 8, 16, 32, 64, 128, 256)  # sequences on which a search scores each candidate
TRIALS = {"grid": 100, "tpe": 40, "gp": 40}


def search(method, chain, instances, seed):
    """Return the (a, b) that a search on so many sequences chooses, and its passes."""
    objective = TeacherForcedObjective(
        chain,
        chain.sequences(instances, seed),
        steps=STEPS,
        mask_token_id=chain.mask,
        seed=1000 * seed,
        batch_size=64,
    )
    found = mdm.tune(
        objective,
        method=method,
        n_trials=TRIALS[method],
        seed=seed,
        screening=instances,
        held_out=0,
        race=False,
    )
    return found.choice.challenger.schedule, found.passes


def predict(chain, sequences, counts, seed):
    """Return the (a, b) fitted to a profile of so many sequences and counts, and its passes."""
    profile = mdm.InformationProfile.estimate(
        chain,
        chain.sequences(sequences, seed),
        mask_token_id=chain.mask,
        passes=sequences * counts,
        seed=seed,
    )
    return profile.fit_beta(STEPS), profile.measurement.passes


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--instances", type=int, nargs="+", default=INSTANCES)
    parser.add_argument(
        "--method", choices=list(TRIALS), action="append", help="may be repeated (default: all)"
    )
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    begin, chain = time.monotonic(), worlds()["sticky"]
    exact = chain.profile()

    def cost(schedule):
        return exact.cost(schedule.plan(TOKENS, STEPS))

    best = min(map(cost, GRID))
    print(f"least cost of the grid: {best:.3f} nats; linear {cost(mdm.Linear()):.3f}")
    routes = [
        (method, n, lambda seed, m=method, n=n: search(m, chain, n, seed))
        for method in args.method or TRIALS
        for n in args.instances
    ]
    for sequences, counts in ((2, 8), (4, 8), (4, 16), (8, 16), (8, 32), (16, 64)):
        label = f"{sequences} x {counts}"
        routes.append(
            ("profile", label, lambda seed, s=sequences, c=counts: predict(chain, s, c, seed))
        )
    rows, reached = [], {}
    for method, size, run in tqdm(routes):
        if method != "profile" and method in reached:
            continue
        chosen, passes = zip(*(run(seed) for seed in range(1, args.repeats + 1)), strict=True)
        ratios = np.array([cost(schedule) for schedule in chosen]) / best
        row = {
            "method": method,
            "size": size,
            "passes": float(np.mean(passes)),
            "ratio": float(ratios.mean()),
        }
        row["standard_error"] = (
            float(ratios.std(ddof=1) / np.sqrt(len(ratios))) if len(ratios) > 1 else None
        )
        rows.append(row)
        if row["ratio"] <= CLOSE:
            reached.setdefault(method, row)
    print(
        "\n| route | instances (or sequences x counts) | passes | cost / least of the grid "
        "|\n|---|---|---|---|"
    )
    for row in rows:
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.3f}"
        print(
            f"| {row['method']} | {row['size']} | {row['passes']:,.0f} | "
            f"{row['ratio']:.3f}{error} |"
        )
    print(f"\npasses to come within {CLOSE - 1:.0%}:")
    for method, row in reached.items():
        print(
            f"{method}: {row['passes']:,.0f}"
            + (
                f", the grid takes {reached['grid']['passes'] / row['passes']:.0f} times as many"
                if "grid" in reached
                else ""
            )
        )
    print(f"\n{time.monotonic() - begin:.0f} s")
    if args.output:
        args.output.write_text(json.dumps({"rows": rows, "reached": reached}, indent=2) + "\n")


if __name__ == "__main__":
    main()
