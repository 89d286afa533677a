"""Measures quality by schedule, position policy and steps on the two shipped models.

    python examples/benchmarks/few_step_quality.py --world sudoku --output sudoku.json
    python examples/benchmarks/few_step_quality.py --world code --output code.json

    sudoku: percent of held-out 6x6 puzzles (12 clues, 24 cells to fill) completed to a valid grid
    code: log-likelihood in nats per token of the second halves of windows of 128 tokens of held-out
        files, revealed in the plan's steps and the policy's order

"tuned" is the schedule that `tune` finds for that policy and number of steps (40 trials for sudoku,
12 for code); "best plan" is the optimal plan of an information profile of 16 sequences, which is
optimal in random order only. Tuning and profiling use instances of their own, never those scored.
Errors are one standard error.

Each policy of sudoku takes about half an hour on one core; --policy, --steps and --instances
shorten the run.
"""

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import mdm_schedules as mdm
from mdm_schedules.demo import tasks as demo
from mdm_schedules.tuning import TeacherForcedObjective, compare

sys.path.append(str(Path(__file__).parents[1] / "training"))

SCHEDULES = ("linear", "sine", "squared_sine", "cosine")
# the shape parameters of the paper
PRESETS = ("beta(a=0.9, b=0.3)", "beta(a=1.0, b=0.2)", "beta(a=0.3, b=0.3)", "beta(a=0.9, b=0.9)")
POLICIES = {
    "sudoku": {"low_confidence": 0.0, "random": 0.5},
    "code": {"random": 0.0, "low_confidence": 0.0},
}
STEPS = {"sudoku": (4, 6, 8, 10, 12, 16, 20), "code": (4, 8, 16)}
WINDOW, PROMPT = 128, 64


def windows(number, seed):
    """Return token ids [number, 128]: windows of the standard library's held-out files."""
    from code_data import held_out_library

    tokenizer, rng = demo.load("code")[1], np.random.default_rng(seed)
    text = [
        tokenizer(text, add_special_tokens=False).input_ids for text in held_out_library().values()
    ]
    text = [ids for ids in text if len(ids) >= WINDOW]
    sizes = np.array([len(ids) - WINDOW + 1 for ids in text], dtype=float)
    rows = []
    for file in rng.choice(len(text), number, p=sizes / sizes.sum()):
        begin = rng.integers(len(text[file]) - WINDOW + 1)
        rows.append(text[file][begin : begin + WINDOW])
    return torch.tensor(rows)


def objective(world, policy, temperature, number, seed, clues):
    """Return the objective to maximise, on `number` instances chosen by the seed."""
    if world == "sudoku":
        options = {"remasking": policy, "temperature": temperature, "seed": 10_000 * seed}
        return demo.sudoku_objective(number, clues=clues, puzzle_seed=seed, **options)
    ids = windows(number, seed)
    maskable = (torch.arange(WINDOW) >= PROMPT).expand(number, -1)
    return TeacherForcedObjective(
        demo.load("code")[0], ids, maskable, remasking=policy, seed=10_000 * seed
    )


def profile_of(world, clues, number):
    """Estimate the profile from instances that nothing else uses."""
    if world == "sudoku":
        return demo.sudoku_objective(number, clues=clues, puzzle_seed=3).estimate_profile()
    maskable = (torch.arange(WINDOW) >= PROMPT).expand(number, -1)
    return mdm.InformationProfile.estimate(
        demo.load("code")[0], windows(number, 3), maskable=maskable
    )


def candidates(profile, tuned, steps):
    """Map labels to schedules."""
    named = {name: mdm.get_schedule(name) for name in (*SCHEDULES, *PRESETS)}
    return named | {"tuned": tuned, "best plan": profile.schedule(min(steps, profile.num_tokens))}


def measure(world, policy, temperature, args, profile):
    """Return scores as steps -> label -> scores, and the tuned schedules."""
    select = objective(world, policy, temperature, args.select, 1, args.clues)
    judge = objective(world, policy, temperature, args.instances, 2, args.clues)
    scores, tuned, known = {}, {}, {}
    for steps in tqdm(args.steps or STEPS[world], desc=f"{world}, {policy}"):
        found = mdm.tune(select, n_trials=args.trials, steps=steps, screening=args.select // 4)
        tuned[steps] = found.best_schedule
        scores[steps] = {}
        for label, schedule in candidates(profile, tuned[steps], steps).items():
            key = (judge.plan_key(schedule, steps), steps)
            if key not in known:
                known[key] = judge(schedule, steps).values
            scores[steps][label] = known[key]
    return scores, tuned


def cell(values, scale):
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    digits = 1 if scale == 100 else 3
    return f"{scale * np.mean(values):.{digits}f} ± {scale * error:.{digits}f}"


def show(world, policy, temperature, scores, tuned):
    """Print the table and the comparisons that matter."""
    scale, counts = (100 if world == "sudoku" else 1), list(scores)
    print(
        f"\n| {policy}, temperature {temperature:g} | "
        + " | ".join(f"{steps} steps" for steps in counts)
        + " |"
    )
    print("|---" * (len(counts) + 1) + "|")
    for label in scores[counts[0]]:
        name = f"`{label}`" if label in (*SCHEDULES, *PRESETS) else label
        print(
            f"| {name} | "
            + " | ".join(cell(scores[steps][label], scale) for steps in counts)
            + " |"
        )
    rows = {}
    for steps in counts:
        best = max(PRESETS, key=lambda label: np.mean(scores[steps][label]))
        gaps = {"linear": scores[steps]["linear"], f"best preset {best}": scores[steps][best]}
        gaps |= {
            f"linear at {more} steps": scores[more]["linear"]
            for more in counts
            if more >= 2 * steps
        }
        rows[steps] = {name: compare(scores[steps]["tuned"], other) for name, other in gaps.items()}
        print(
            f"{steps} steps: tuned is {tuned[steps].spec}; "
            + "; ".join(f"{gap} over {name}" for name, gap in rows[steps].items())
        )
    return {
        "temperature": temperature,
        "tuned": {steps: schedule.spec for steps, schedule in tuned.items()},
        "scores": {
            steps: {
                label: [
                    float(np.mean(values)),
                    float(np.std(values, ddof=1) / math.sqrt(len(values))),
                ]
                for label, values in row.items()
            }
            for steps, row in scores.items()
        },
        "tuned over": {
            steps: {name: vars(gap) for name, gap in row.items()} for steps, row in rows.items()
        },
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=sorted(POLICIES), required=True)
    parser.add_argument("--policy", action="append", help="of the world's, may be repeated")
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument(
        "--instances", type=int, help="that are shown (default 300 puzzles, 48 windows)"
    )
    parser.add_argument(
        "--select",
        type=int,
        help="that tune, half of them to check (default 320 puzzles, 48 windows)",
    )
    parser.add_argument(
        "--profile", type=int, default=16, help="sequences of the information profile (default 16)"
    )
    parser.add_argument("--trials", type=int, help="of each search (default 40, 12)")
    parser.add_argument("--clues", type=int, default=12, help="of the puzzles")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    demo.load(args.world)[0].to(args.device)
    args.instances = args.instances or {"sudoku": 300, "code": 48}[args.world]
    args.select = args.select or {"sudoku": 320, "code": 48}[args.world]
    args.trials = args.trials or {"sudoku": 40, "code": 12}[args.world]
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    begin, results = time.monotonic(), {}
    profile = profile_of(args.world, args.clues, args.profile)
    for policy, temperature in POLICIES[args.world].items():
        if args.policy and policy not in args.policy:
            continue
        scores, tuned = measure(args.world, policy, temperature, args, profile)
        results[policy] = show(args.world, policy, temperature, scores, tuned)
        if args.output:
            args.output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\n{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
