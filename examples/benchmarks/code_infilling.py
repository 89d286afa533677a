"""Compares code models by what they write into a gap: exact match and parse rate, by schedule.

    python examples/benchmarks/code_infilling.py --model code
    python examples/benchmarks/code_infilling.py --model old=FOLDER --model new=FOLDER

Functions of the standard library's held-out files (examples/training/code_data.py) lose one
argument of a call, or one line. The tokens that reach into the gap are masked, so that models with
other tokens are compared on the same text. Passes are a share of the masked tokens: at 0.5 a gap of
8 tokens takes 4. Two figures, in percent with one standard error:

    exact: the text is the true one
    parses: the function with the written gap is Python
"""

import argparse
import ast
import json
import random
import sys
from pathlib import Path

from tqdm import tqdm

import mdm_schedules as mdm
from mdm_schedules.demo import models as demo_models
from mdm_schedules.demo import tasks

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from code_data import held_out_library


def functions(source):
    """Yield the text of the functions in a file, as the training data write them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and 3 <= node.end_lineno - node.lineno <= 8:
            yield ast.unparse(node) + "\n"


def gaps(kind, text):
    """Return (start, end) of the gaps of a function: arguments of calls, or lines of its body."""
    lines = text.splitlines(keepends=True)
    starts = [sum(map(len, lines[:number])) for number in range(len(lines))]
    if kind == "line":
        pairs = [
            (starts[i] + len(line) - len(line.lstrip()), starts[i] + len(line) - 1)
            for i, line in enumerate(lines)
            if i
        ]
    else:
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        pairs = [
            (
                starts[arg.lineno - 1] + arg.col_offset,
                starts[arg.end_lineno - 1] + arg.end_col_offset,
            )
            for call in calls
            for arg in call.args
            if arg.lineno == arg.end_lineno
        ]
    return [pair for pair in pairs if 2 <= pair[1] - pair[0] <= 40 and text.isascii()]


def instances(kind, number, seed):
    """Return `number` (before, gap, after), at most one of a function."""
    chooser, found = random.Random(seed), []
    for source in held_out_library().values():
        for text in functions(source):
            places = gaps(kind, text)
            if places:
                start, end = chooser.choice(places)
                found.append((text[:start], text[start:end], text[end:]))
    chooser.shuffle(found)
    return found[:number]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", metavar="NAME=FOLDER", help="or the name of a shipped one"
    )
    parser.add_argument("--kind", action="append", choices=("argument", "line"))
    parser.add_argument("--schedule", action="append")
    parser.add_argument("--share", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="write the figures into this JSON file too")
    parser.add_argument("--gaps", type=Path, help="only write the gaps into this JSON file")
    args = parser.parse_args()
    kinds = args.kind or ("argument", "line")
    if args.gaps:
        found = {kind: instances(kind, args.instances, args.seed) for kind in kinds}
        args.gaps.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    from transformers import AutoTokenizer

    results = {}
    for kind in kinds:
        chosen = instances(kind, args.instances, args.seed)
        print(f"\n{kind}: {len(chosen)} gaps\n")
        print("| model, schedule | passes a token | exact | parses |\n|---|---|---|---|")
        for name, _, folder in (one.partition("=") for one in args.model or ["code"]):
            folder = folder or demo_models.path(name)
            model = mdm.AutoModelForMaskedDiffusion.from_pretrained(folder).to(args.device)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            for schedule in args.schedule or ("linear", "sine", "beta(a=0.9, b=0.3)"):
                for share in args.share:
                    exact, valid = [], []
                    for parts in tqdm(chosen, leave=False, disable=None):
                        text, *_ = tasks.fill_gap(
                            schedule, *parts, share=share, model=model, tokenizer=tokenizer
                        )
                        exact.append(text == "".join(parts))
                        valid.append(tasks.parses(text))
                    cells = [tasks.percent(exact), tasks.percent(valid)]
                    results[f"{kind}, {name}, {schedule}, {share}"] = cells
                    told = " | ".join(f"{mean:.1f} ± {error:.1f}" for mean, error in cells)
                    print(f"| {name}, {schedule} | {share} | {told} |", flush=True)
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
