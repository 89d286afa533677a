"""Measures quality against mean forward passes, for schedules, orders, remasking and commit rules.

    python examples/benchmarks/commit_frontier.py --world sudoku --output sudoku_frontier.json
    python examples/benchmarks/commit_frontier.py --world code --output code_frontier.json

    sudoku: share of held-out 6x6 puzzles (12 clues, 24 cells to fill) completed to a valid grid
    code: share of 24 masked bytes, in the middle of 64 bytes of held-out files, filled as they were

Everything is measured on the same instances and seeds. What is tuned is tuned on instances of its
own. The output file grows cell by cell: the same call goes on after an interruption, and --figure
draws what it holds. A rule at a mean number of passes is compared in pairs with a mixture of the
two nearest thresholds of the same mean; errors are one standard error. --quick is a test.
"""

import argparse
import itertools
import json
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from few_step_quality import windows

import mdm_schedules as mdm
from mdm_schedules.demo import tasks as demo
from mdm_schedules.files import write_output
from mdm_schedules.tuning import GenerationObjective, compare

# order -> temperature
ORDERS = {"low_confidence": 0.0, "random": 0.5}
PRESET = "beta(a=0.9, b=0.3)"
LEVELS = {
    "threshold": ("low_confidence", "threshold({})", (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)),
    "entropy bound": ("entropy", "entropy_bound({})", (0.03, 0.1, 0.3, 0.6, 1.2)),
    "factor": ("low_confidence", "factor({})", (0.2, 0.5, 1.0, 1.5, 2.5)),
    "KLASS": ("low_confidence", "klass({}, 0.01)", (0.4, 0.6, 0.8, 0.9)),
    "LocalLeap": ("low_confidence", "local_leap(0.9, {})", (0.5, 0.6, 0.75, 0.85)),
}
STEPS = (4, 6, 8, 12)
TOKENS = 24


def equal_bytes(output, answer):
    """Return the share of masked bytes that were filled as they were."""
    places = answer[1]
    return float((output[places] == answer[0][places]).float().mean())


def objective(world, order, temperature, number, seed):
    """Return the objective on `number` instances that the seed chooses."""
    options = {"remasking": order, "temperature": temperature, "seed": 10_000 * seed}
    if world == "sudoku":
        return demo.sudoku_objective(number, clues=12, puzzle_seed=seed, **options)
    model, tokenizer = demo.load("code")
    ids = windows(number, seed)[:, :64]
    places = torch.arange(20, 20 + TOKENS)
    hidden = ids.index_fill(1, places, tokenizer.mask_token_id)
    instances = [(hide.tolist(), (row, places)) for hide, row in zip(hidden, ids, strict=True)]
    return GenerationObjective(model, instances, equal_bytes, name="code", **options)


class Table:
    """Cells name -> {"scores", "nfe", ...}, kept in a file."""

    def __init__(self, path, settings):
        self.path, self.cells = path, {}
        if path is not None and path.exists():
            told = json.loads(path.read_text())
            if told["settings"] != settings:
                raise SystemExit(f"{path} holds other settings: {told['settings']}")
            self.cells = told["cells"]
        self.settings = settings

    def add(self, name, run):
        """Measure a cell unless it is known."""
        if name in self.cells:
            return
        begin = time.monotonic()
        self.cells[name] = run()
        took = time.monotonic() - begin
        cell = self.cells[name]
        print(
            f"{name}: {np.mean(cell['scores']):.3f} in {np.mean(cell['nfe']):.2f} passes "
            f"({took:.0f} s)",
            flush=True,
        )
        if self.path is not None:
            text = json.dumps({"settings": self.settings, "cells": self.cells})
            write_output(self.path, text.encode())


def cell(judge, schedule, steps, options=None, **extra):
    """Return the scores and passes of a decoding."""
    told = judge(mdm.get_schedule(schedule), steps, None, options or {})
    return {"scores": list(told.values), "nfe": list(told.nfe), **extra}


def tuned(judge, select, space, steps, trials, seed):
    """Return the cell of what `tune` finds, whether or not its check is passed.

    The check has instances of its own, which leaves few; the table is the check here.
    """
    found = mdm.tune(
        select,
        space=space,
        steps=steps,
        n_trials=trials,
        seed=seed,
        screening=max(2, select.num_instances // 4),
    )
    one = found.choice.challenger
    options = dict(one.options)
    used = options.pop("steps", steps)
    extra = {
        "found": one.schedule.spec,
        "with": {**options, "steps": used},
        "finding": found.choice.finding,
    }
    return cell(judge, one.schedule, used, options, **extra)


def measure(table, world, args):
    """Measure every cell."""
    for order, temperature in ORDERS.items():
        judge = objective(world, order, temperature, args.instances, 2)
        select = objective(world, order, temperature, args.select, 1)
        for steps in args.steps:
            key = f"{order} | {steps} | "
            table.add(key + "linear", lambda j=judge, k=steps: cell(j, "linear", k))
            table.add(key + "preset", lambda j=judge, k=steps: cell(j, PRESET, k))
            for kind in ("uniform", "confidence"):
                options = {"remask_fraction": 0.3, "remask": kind}
                table.add(
                    key + f"remask 0.3 {kind}",
                    lambda j=judge, k=steps, o=options: cell(j, "linear", k, o),
                )
            spaces = {"(a, b)": "schedule", "plan": "plan", "remask": "schedule+remask"}
            if order == "low_confidence":
                spaces["commit"] = "schedule+commit"
            for name, space in spaces.items():
                table.add(
                    key + f"tuned {name}",
                    lambda j=judge, s=select, p=space, k=steps: tuned(j, s, p, k, args.trials, 0),
                )
    for name, (order, rule, levels) in LEVELS.items():
        judge = objective(world, order, 0.0, args.instances, 2)
        for level in levels[:: args.every]:
            options = {"commit": rule.format(level)}
            table.add(
                f"{order} | {TOKENS} | {name} {level}",
                lambda j=judge, o=options: cell(j, "linear", TOKENS, o),
            )
    for name, order in (("dilated", "dilated"), ("pc", "pc(decay=0.25)")):
        judge = objective(world, order, 0.0, args.instances, 2)
        for steps in args.steps:
            table.add(f"{name} | {steps} | {name}", lambda j=judge, k=steps: cell(j, "linear", k))


def error(values):
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def mixture(cells, prefix, passes):
    """Return scores by instance of a mixture of two levels of a rule with that mean of passes."""
    rows = sorted(
        (float(np.mean(one["nfe"])), one["scores"])
        for name, one in cells.items()
        if f"| {prefix} " in name
    )
    for (low, first), (high, second) in itertools.pairwise(rows):
        if low <= passes <= high and high > low:
            share = (high - passes) / (high - low)
            return share * np.array(first) + (1 - share) * np.array(second)
    return None


def show(cells, steps):
    """Print the table, and what the tuned rules gain."""
    print("\n| order | steps | decoding | mean passes | quality |\n|---|---|---|---|---|")
    for name, one in sorted(cells.items()):
        order, bound, label = name.split(" | ")
        passes = f"{np.mean(one['nfe']):.2f} ± {error(one['nfe']):.2f}"
        quality = f"{np.mean(one['scores']):.3f} ± {error(one['scores']):.3f}"
        print(f"| {order} | {bound} | {label} | {passes} | {quality} |")
    print("\nGains of what was tuned, in pairs on the same instances:\n")
    print("| steps | tuned | over the best static schedule | over thresholds at equal passes |")
    print("|---|---|---|---|")
    for bound in steps:
        statics = ("linear", "preset", "tuned (a, b)", "tuned plan")
        rows = [cells.get(f"low_confidence | {bound} | {name}") for name in statics]
        static = max((one for one in rows if one), key=lambda one: np.mean(one["scores"]))
        for name in ("tuned (a, b)", "tuned plan", "tuned remask", "tuned commit"):
            one = cells.get(f"low_confidence | {bound} | {name}")
            if one is None:
                continue
            other = mixture(cells, "threshold", float(np.mean(one["nfe"])))
            gaps = [compare(one["scores"], static["scores"])]
            gaps += [] if other is None else [compare(one["scores"], other)]
            told = [f"{gap.difference:+.3f} ± {gap.standard_error:.3f}" for gap in gaps]
            print(f"| {bound} | {name} | {' | '.join([*told, 'none there'][:2])} |")
    print("\nNever the best at its passes or fewer, within two standard errors:")
    print(", ".join(never_best(cells)) or "none")


def never_best(cells):
    """Return the kinds of decoding that no cell shows to be as good as all cheaper ones."""
    kinds = {}
    for name, one in cells.items():
        label = name.split(" | ")[2]
        kind = label if label.startswith(("tuned", "remask")) else label.rsplit(" ", 1)[0]
        rivals = [
            other for other in cells.values() if np.mean(other["nfe"]) <= np.mean(one["nfe"]) + 1e-9
        ]
        gaps = [compare(other["scores"], one["scores"]) for other in rivals]
        beaten = any(gap.difference > 2 * max(gap.standard_error, 1e-12) for gap in gaps)
        kinds[kind] = kinds.get(kind, False) or not beaten
    return sorted(kind for kind, best in kinds.items() if not best)


def draw(cells, path, world):
    """Draw quality against mean passes, one line for each kind of decoding."""
    from mdm_schedules.plotting import new_figure, save_picture

    lines = {}
    for name, one in cells.items():
        order, _, label = name.split(" | ")
        kind = next((rule for rule in LEVELS if label.startswith(f"{rule} ")), label)
        point = (np.mean(one["nfe"]), np.mean(one["scores"]), error(one["scores"]))
        side = 1 if order == "random" else 0
        lines.setdefault((side, kind), []).append(point)
    figure, axes = new_figure(2)
    for (side, kind), points in lines.items():
        x, y, bars = zip(*sorted(points), strict=True)
        style = {"marker": "o", "markersize": 3, "linewidth": 1, "capsize": 2}
        axes[side].errorbar(x, y, bars, label=kind, **style)
    for one, title in zip(axes, ("orders by confidence", "random order"), strict=True):
        one.set(xlabel="mean forward passes", ylabel=f"quality, {world}", title=title)
        one.legend(frameon=False, fontsize=6)
    save_picture(figure, path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=("sudoku", "code"), required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--instances", type=int, default=300, help="that are shown")
    parser.add_argument("--select", type=int, default=320, help="that tune, half of them to check")
    parser.add_argument("--trials", type=int, default=40, help="of each search")
    parser.add_argument("--every", type=int, default=1, help="each so-manieth level of a rule")
    parser.add_argument("--quick", action="store_true", help="a test of the script")
    parser.add_argument("--output", type=Path, help="JSON file; goes on with what it holds")
    parser.add_argument("--figure", type=Path, help="picture to write")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.instances, args.select, args.trials, args.every = [6], 8, 12, 2, 6
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    settings = {"world": args.world, "instances": args.instances, "select": args.select}
    table = Table(args.output, settings | {"trials": args.trials})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure(table, args.world, args)
    show(table.cells, args.steps)
    if args.figure is not None:
        draw(table.cells, args.figure, args.world)


if __name__ == "__main__":
    main()
