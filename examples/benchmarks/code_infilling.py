"""Compares code models by what they write into a gap: exact match and parse rate, by schedule.

    python examples/benchmarks/code_infilling.py --model old=FOLDER --model new=FOLDER

Functions of the standard library's held-out files (examples/training/code_data.py) lose one
argument of a call, or one line. The gap has as many masks as the model's own tokens need for the
true text, so that models with other tokens are compared on the same text. Passes are a share of the
gap's tokens: at 0.5 a gap of 8 tokens takes 4. Two figures, in percent with one standard error:

    exact: the gap holds the true text
    parses: the function with the written gap is Python
"""

import argparse
import ast
import json
import math
import random
import sys
import textwrap
from pathlib import Path

import torch
from tqdm import tqdm

import mdm_schedules as mdm

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from code_data import held_out_library

LONGEST = 60  # tokens of a gap; longer ones hold text that no small model can know


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


def fill(model, tokenizer, instance, schedule, share, limit):
    """Return what the model writes into the gap."""
    before, gap, after = (tokenizer(part, add_special_tokens=False).input_ids for part in instance)
    if len(gap) > LONGEST:
        return None
    room = limit - len(gap)
    before, after = before[-(room // 2 + room % 2) :], after[: room // 2]
    row = torch.tensor([[*before, *[tokenizer.mask_token_id] * len(gap), *after]])
    special = [one for one in tokenizer.all_special_ids if one != tokenizer.mask_token_id]
    out = mdm.generate(
        model,
        row,
        schedule=schedule,
        steps=max(1, math.ceil(share * len(gap))),
        suppress_tokens=special,
        seed=0,
    )
    return tokenizer.decode(out.sequences[0, len(before) : len(before) + len(gap)])


def parses(text):
    try:
        ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError):
        return False
    return True


def percent(values):
    share = sum(values) / len(values)
    return 100 * share, 100 * math.sqrt(max(share * (1 - share), 0.25 / len(values)) / len(values))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--kind", action="append", choices=("argument", "line"))
    parser.add_argument("--schedule", action="append")
    parser.add_argument("--share", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the figures into this JSON file too")
    args = parser.parse_args()
    from transformers import AutoTokenizer

    results = {}
    for kind in args.kind or ("argument", "line"):
        chosen = instances(kind, args.instances, args.seed)
        print(f"\n{kind}: {len(chosen)} gaps\n")
        print("| model, schedule | passes a token | exact | parses |\n|---|---|---|---|")
        for name, folder in (one.split("=", 1) for one in args.model):
            model = mdm.AutoModelForMaskedDiffusion.from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            limit = model.config.max_position_embeddings
            for schedule in args.schedule or ("linear", "sine", "beta(a=0.9, b=0.3)"):
                for share in args.share:
                    exact, valid = [], []
                    for before, gap, after in tqdm(chosen, leave=False, disable=None):
                        text = fill(model, tokenizer, (before, gap, after), schedule, share, limit)
                        exact.append(text is not None and text.strip() == gap.strip())
                        valid.append(text is not None and parses(before + text + after))
                    cells = [percent(exact), percent(valid)]
                    results[f"{kind}, {name}, {schedule}, {share}"] = cells
                    told = " | ".join(f"{mean:.1f} ± {error:.1f}" for mean, error in cells)
                    print(f"| {name}, {schedule} | {share} | {told} |", flush=True)
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
