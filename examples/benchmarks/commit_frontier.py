"""Measures quality against mean forward passes, for schedules, orders, remasking and commit rules.

    python examples/benchmarks/commit_frontier.py --world sudoku --output sudoku_frontier.json
    python examples/benchmarks/commit_frontier.py --world code --output code_frontier.json

    sudoku: share of held-out 6x6 puzzles (12 clues, 24 cells to fill) completed to a valid grid
    code: share of 24 masked tokens, in the middle of 64 tokens of held-out files, filled as they
        were

Everything is measured on the same instances and seeds. What is tuned is tuned on instances of its
own. The output file grows cell by cell: the same call goes on after an interruption, and --figure
draws what it holds. --setting measures one of the orders, so that several calls can share the work;
--join adds what they wrote. What is tuned is compared in pairs with a mixture of the two thresholds
whose mean passes lie around its own; errors are one standard error. --quick is a test.
"""

import argparse
import itertools
import json
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import tables
import torch
from few_step_quality import windows

import mdm_schedules as mdm
from mdm_schedules.demo import tasks as demo
from mdm_schedules.files import write_output
from mdm_schedules.tuning import GenerationObjective, compare

#: (order, temperature)
SETTINGS = (("low_confidence", 0.0), ("low_confidence", 0.5), ("random", 0.5), ("entropy", 0.0))
NAMED = ("linear", "sine", "cosine", "beta(a=0.9, b=0.3)")
LEVELS = {
    "threshold": ("low_confidence", "threshold({})", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)),
    "entropy bound": ("entropy", "entropy_bound({})", (0.03, 0.1, 0.3, 0.6, 1.2, 2.4)),
    "factor": ("low_confidence", "factor({})", (0.2, 0.5, 1.0, 1.5, 2.5)),
    "KLASS": ("low_confidence", "klass({}, 0.01)", (0.2, 0.4, 0.6, 0.8, 0.9)),
    "LocalLeap": ("low_confidence", "local_leap(0.9, {})", (0.4, 0.5, 0.6, 0.75, 0.85)),
}
STEPS = (4, 6, 8, 12)
TOKENS = 24
TUNED = ("tuned (a, b)", "tuned plan", "tuned remask", "tuned commit")


def equal_tokens(output, answer):
    """Return the share of masked tokens that were filled as they were."""
    places = answer[1]
    return float((output[places] == answer[0][places]).float().mean())


def objective(world, order, temperature, number, seed):
    """Return the objective on `number` instances that the seed chooses."""
    options = {"remasking": order, "temperature": temperature, "seed": 10_000 * seed}
    options["batch_size"] = 1000
    if world == "sudoku":
        return demo.sudoku_objective(number, clues=12, puzzle_seed=seed, **options)
    model, tokenizer = demo.load("code")
    ids = windows(number, seed)[:, :64]
    places = torch.arange(20, 20 + TOKENS)
    hidden = ids.index_fill(1, places, tokenizer.mask_token_id)
    instances = [(hide.tolist(), (row, places)) for hide, row in zip(hidden, ids, strict=True)]
    return GenerationObjective(model, instances, equal_tokens, name="code", **options)


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
    """Measure every cell of the settings asked for."""
    for order, temperature in SETTINGS:
        setting = f"{order}, temperature {temperature:g}"
        if args.setting and setting not in args.setting:
            continue
        if order == "low_confidence":
            measure_rules(table, world, temperature, args)
        judge = objective(world, order, temperature, args.instances, 2)
        select = objective(world, order, temperature, args.select, 1)
        for steps in args.steps:
            key = f"{setting} | {steps} | "
            for name in NAMED:
                table.add(key + name, lambda n=name, j=judge, k=steps: cell(j, n, k))
            for kind in ("uniform", "confidence") if order != "entropy" else ():
                options = {"remask_fraction": 0.3, "remask": kind}
                table.add(
                    key + f"remask 0.3 {kind}",
                    lambda j=judge, k=steps, o=options: cell(j, "linear", k, o),
                )
            spaces = {"(a, b)": "schedule", "plan": "plan", "remask": "schedule+remask"}
            if order == "low_confidence":
                spaces["commit"] = "schedule+commit"
            if order == "entropy":
                spaces = {"commit": "schedule+commit"}
            for name, space in spaces.items():
                table.add(
                    key + f"tuned {name}",
                    lambda j=judge, s=select, p=space, k=steps: tuned(j, s, p, k, args.trials, 0),
                )


def measure_rules(table, world, temperature, args):
    """Measure commit rules over a plan of one token a pass, and the other orders, over linear."""
    for name, (order, rule, levels) in LEVELS.items():
        judge = objective(world, order, temperature, args.instances, 2)
        for level in levels[:: args.every]:
            options = {"commit": rule.format(level)}
            table.add(
                f"{order}, temperature {temperature:g} | {TOKENS} | {name} {level}",
                lambda j=judge, o=options: cell(j, "linear", TOKENS, o),
            )
    for name, order in (("dilated", "dilated"), ("pc", "pc(decay=0.25)")):
        judge = objective(world, order, temperature, args.instances, 2)
        for steps in args.steps:
            table.add(
                f"{name}, temperature {temperature:g} | {steps} | {name}",
                lambda j=judge, k=steps: cell(j, "linear", k),
            )


def error(values):
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def mixture(cells, rule, setting, passes):
    """Return scores by instance of a mixture of two levels of a rule with that mean of passes."""
    rows = sorted(
        (float(np.mean(one["nfe"])), one["scores"])
        for name, one in cells.items()
        if name.startswith(f"{setting} ") and f"| {rule} " in name
    )
    for (low, first), (high, second) in itertools.pairwise(rows):
        if low <= passes <= high and high > low:
            share = (high - passes) / (high - low)
            return share * np.array(first) + (1 - share) * np.array(second)
    return None


def told(one, what="scores"):
    return f"{np.mean(one[what]):.3f} ± {error(one[what]):.3f}"


def by_setting(cells):
    """Return setting -> (steps, label) -> cell."""
    found = {}
    for name, one in cells.items():
        setting, steps, label = name.split(" | ")
        found.setdefault(setting, {})[int(steps), label] = one
    return found


def is_rule(label):
    return any(label.startswith(f"{rule} ") for rule in LEVELS)


def plan_tables(cells):
    """Yield (head, rows) for each order: quality of decodings of a given number of passes."""
    for setting, known in sorted(by_setting(cells).items()):
        steps = sorted({count for count, label in known if not is_rule(label)})
        labels = dict.fromkeys(label for _, label in known if not is_rule(label))
        rows = []
        for label in labels:
            row = [known.get((count, label)) for count in steps]
            words = ["" if one is None else told(one) for one in row]
            if label == "tuned commit":
                spent = [None if one is None else f" in {np.mean(one['nfe']):.2f}" for one in row]
                words = [word + (more or "") for word, more in zip(words, spent, strict=True)]
            rows.append([f"`{label}`" if label in NAMED else label, *words])
        if rows:
            yield [setting, *(f"{count} passes" for count in steps)], rows


def rule_table(cells):
    """Return (head, rows) of the commit rules over one token a pass."""
    rows = [
        [setting, label, f"{np.mean(one['nfe']):.2f} ± {error(one['nfe']):.2f}", told(one)]
        for setting, known in sorted(by_setting(cells).items())
        for (_, label), one in known.items()
        if is_rule(label)
    ]
    return ["order", "rule", "mean passes", "quality"], rows


def gain_table(cells):
    """Return (head, rows): what tuned decodings gain, in pairs on the same instances."""
    rows = []
    for setting, known in sorted(by_setting(cells).items()):
        for (steps, label), one in sorted(known.items()):
            if label not in TUNED:
                continue
            rule = "entropy bound" if setting.startswith("entropy") else "threshold"
            rivals = [mixture(cells, rule, setting, float(np.mean(one["nfe"])))]
            for names in (NAMED, (*NAMED, *TUNED[:2])):
                statics = [known[steps, name]["scores"] for name in names if (steps, name) in known]
                rivals.insert(0, max(statics, key=np.mean))
            gaps = [None if other is None else compare(one["scores"], other) for other in rivals]
            gains = [
                f"{gap.difference:+.3f} ± {gap.standard_error:.3f}" if gap else "none there"
                for gap in gaps
            ]
            options = "".join(
                f", {key}={value}" for key, value in one["with"].items() if value != steps
            )
            found = f"`{one['found']}`{options}".replace(", t=None", "")
            rows.append([setting, str(steps), label, found, *gains])
    head = ["order", "passes", "", "found", "best static", "best with a name", "rules"]
    return head, rows


GAINS = """What was tuned, in pairs on the same instances, against the best static schedule of as
many passes (tuned ones among them), the best that has a name, and rules of as many mean passes
(thresholds; entropy bounds in entropy order):"""


def summary(cells):
    """Return the blocks of a page of results."""
    gains = gain_table(cells)
    return [
        *({"table": {"head": head, "rows": rows}} for head, rows in plan_tables(cells)),
        {"text": "Commit rules over a plan of one token a pass, which bounds the passes:"},
        {"table": dict(zip(("head", "rows"), rule_table(cells), strict=True))},
        {"text": GAINS},
        {"table": dict(zip(("head", "rows"), gains, strict=True))},
        {
            "text": "Never the best at their passes or fewer, within two standard errors: "
            f"{', '.join(never_best(cells)) or 'none'}."
        },
    ]


def never_best(cells):
    """Return the kinds of decoding that no cell shows to be as good as all cheaper ones."""
    kinds = {}
    for name, one in cells.items():
        label = name.split(" | ")[2]
        kind = next((rule for rule in LEVELS if label.startswith(f"{rule} ")), label)
        rivals = [
            other for other in cells.values() if np.mean(other["nfe"]) <= np.mean(one["nfe"]) + 1e-9
        ]
        gaps = [compare(other["scores"], one["scores"]) for other in rivals if other is not one]
        beaten = any(gap.difference > 2 * max(gap.standard_error, 1e-12) for gap in gaps)
        kinds[kind] = kinds.get(kind, False) or not beaten
    return sorted(kind for kind, best in kinds.items() if not best)


#: kinds of decoding that look alike in the picture: their names, lines and marks
GROUPS = (
    (NAMED, "-", "o"),
    (TUNED, "--", "s"),
    (tuple(LEVELS), "-.", "^"),
    (("remask 0.3 uniform", "remask 0.3 confidence", "dilated", "pc"), ":", "v"),
)


def draw(cells, path, world):
    """Draw quality against mean passes, one line for each kind of decoding."""
    from mdm_schedules.plotting import new_figure, save_picture

    lines = {}
    for name, one in cells.items():
        setting, _, label = name.split(" | ")
        kind = next((rule for rule in LEVELS if label.startswith(f"{rule} ")), label)
        point = (np.mean(one["nfe"]), np.mean(one["scores"]), error(one["scores"]))
        order, temperature = setting.rsplit(", ", 1)
        side = 2 if order == "random" else int(temperature != "temperature 0")
        if order == "entropy" and kind in NAMED:
            continue  # much as in confidence order
        lines.setdefault((side, kind, order == "entropy" and kind in TUNED), []).append(point)
    figure, axes = new_figure(3)
    for (side, kind, entropy), points in lines.items():
        x, y, bars = zip(*sorted(points), strict=True)
        group = next(group for group in GROUPS if kind in group[0])
        looks = {"color": f"C{group[0].index(kind)}", "linestyle": group[1], "marker": group[2]}
        sizes = {"markersize": 4, "linewidth": 1, "capsize": 2}
        if entropy:
            kind, looks["marker"] = f"{kind}, entropy order", "D"
        axes[side].errorbar(x, y, bars, label=kind, **looks, **sizes)
    titles = ("confidence, temperature 0", "confidence, temperature 0.5", "random, temperature 0.5")
    for one, title in zip(axes, titles, strict=True):
        one.set(xlabel="mean forward passes", ylabel=f"quality, {world}", title=title)
        one.set_xlim(left=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=7, loc="outside lower center", ncols=9)
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
    parser.add_argument("--setting", action="append", help='such as "random, temperature 0.5"')
    parser.add_argument("--join", nargs="+", type=Path, default=[], help="files to add")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a test of the script")
    parser.add_argument("--output", type=Path, help="JSON file; goes on with what it holds")
    parser.add_argument("--results", type=Path, help="JSON file for the tables, as results/ has")
    parser.add_argument("--figure", type=Path, help="picture to write")
    parser.add_argument("--show", action="store_true", help="measure nothing more")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.instances, args.select, args.trials, args.every = [6], 8, 12, 2, 6
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.machine()
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    settings = {"world": args.world, "instances": args.instances, "select": args.select}
    settings["trials"] = args.trials
    table = Table(args.output, settings)
    for path in args.join:
        table.cells |= Table(path, settings).cells
    demo.load(args.world)[0].to(args.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not args.show:
            measure(table, args.world, args)
    blocks = summary(table.cells)
    print(*map(tables.block, blocks), sep="\n\n")
    if args.results is not None:
        args.results.write_text(json.dumps(blocks, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if args.figure is not None:
        draw(table.cells, args.figure, args.world)


if __name__ == "__main__":
    main()
