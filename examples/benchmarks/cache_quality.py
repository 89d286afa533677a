"""What approximate caches cost in quality, on the two models that ship, by mode and refresh.

    OMP_NUM_THREADS=1 python examples/benchmarks/cache_quality.py --output cache_quality.json

code: windows of 128 tokens of the standard library's held-out files, of which the second half is
    written in blocks of 16; nats per token, teacher-forced, and the share of equal tokens.
sudoku: the first two rows of held-out 6x6 grids are given, the other 24 cells are written in blocks
    of 12; share of valid grids, and of equal cells.

All figures are differences to no cache, in pairs, with one standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from few_step_quality import windows

import mdm_schedules as mdm
from mdm_schedules.demo import sudoku, tasks
from mdm_schedules.tuning import GenerationObjective

GIVEN = 12
MODES: dict[str, dict[str, Any]] = {
    "prefix": {"cache": "prefix"},
    "prefix, refresh 2": {"cache": "prefix", "cache_refresh": 2},
    "dual": {"cache": "dual"},
    "dual, refresh 2": {"cache": "dual", "cache_refresh": 2},
    "dual, every 4th block": {"cache": "dual", "cache_refresh_blocks": 4},
}


def valid(output: torch.Tensor, given: torch.Tensor) -> float:
    """Return whether the given cells and the written ones form a valid grid."""
    return tasks.valid_grid(torch.cat([given, output.cpu()]))


def code(number: int, passes: int, seed: int) -> Any:
    """Return the comparison on text; `passes` are those of a block."""
    model, _ = tasks.load("code")
    rows = windows(number, seed)
    return mdm.compare_caches(
        model, rows, steps=4 * passes, block_length=16, remasking="random", modes=MODES
    )


def puzzles(number: int, passes: int, seed: int) -> Any:
    """Return the comparison on grids; `passes` are those of a block."""
    model, _ = tasks.load("sudoku")
    grids = tasks.sudoku_ids(sudoku.puzzles(number, GIVEN, seed)[1])
    objective = GenerationObjective(
        model,
        [(grid[:GIVEN], grid[:GIVEN]) for grid in grids],
        valid,
        max_new_tokens=len(grids[0]) - GIVEN,
        block_length=12,
        temperature=0.5,
        remasking="random",
        batch_size=200,
    )
    return mdm.compare_caches(model, objective, steps=2 * passes, modes=MODES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--puzzles", type=int, default=400)
    parser.add_argument("--passes", type=int, nargs="+", default=[4], help="passes a block")
    parser.add_argument("--task", nargs="+", choices=["code", "sudoku"], default=["code", "sudoku"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a few windows and puzzles")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.windows, args.puzzles, args.passes = 3, 4, [2]
    torch.set_num_threads(1)
    for task in args.task:
        tasks.load(task)[0].to(args.device)
    results = []
    for task in args.task:
        for passes in args.passes:
            if task == "code":
                found = code(args.windows, passes, args.seed)
            else:
                found = puzzles(args.puzzles, passes, args.seed)
            print(f"\n{task}, {passes} passes a block, {found.instances} instances:\n\n{found}")
            results.append({"task": task, "passes": passes, **found.to_json()})
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
