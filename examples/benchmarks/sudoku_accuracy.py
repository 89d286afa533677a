"""Measures the accuracy of the shipped Sudoku model by schedule, steps and position policy.

    python examples/benchmarks/sudoku_accuracy.py --output sudoku_accuracy.json

Each cell is the share of held-out 6x6 puzzles (6 clues, 30 cells to fill) completed to a valid
grid, with one standard error. The puzzles and the seeds are the same in every cell. At 30 steps
every pass reveals one token, so all schedules are the same. Takes about half an hour on one core.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from mdm_schedules.demo import tasks as demo

SCHEDULES = (
    "linear",
    "sine",
    "squared_sine",
    "cosine",
    "beta(a=0.9, b=0.3)",
    "beta(a=0.8, b=0.3)",
)
POLICIES = (("random", 0.5), ("low_confidence", 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--puzzles", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 8, 10, 12, 15, 20, 25, 30])
    parser.add_argument("--schedule", action="append")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    start, results = time.monotonic(), {}
    for remasking, temperature in POLICIES:
        options = {
            "puzzles": args.puzzles,
            "seed": args.seed,
            "remasking": remasking,
            "temperature": temperature,
        }
        table = demo.accuracy_table(args.schedule or SCHEDULES, args.steps, **options)
        results[remasking] = table
        print(f"\n{remasking}, temperature {temperature:g}, {args.puzzles} puzzles, percent:\n")
        print(demo.format_table(table))
    print(f"\n{time.monotonic() - start:.0f} s")
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
