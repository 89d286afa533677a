"""Writes the information profiles that the page of `mdm-schedules explore` ships with.

    python examples/explorer_profiles.py --output mdm_schedules/explorer/page/profiles.json

Three tasks of different shape: 6x6 Sudokus with 12 clues (24 cells to fill), Python source (the
shipped models, on held-out sequences) and a Markov chain that rarely changes its letter, whose
profile is exact.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

import mdm_schedules as mdm
from mdm_schedules.demo import sudoku, tasks

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent / "training"))
from markov_chains import worlds


def sudoku_profile(sequences):
    """Measure on held-out grids; the clues are always visible."""
    model, _ = tasks.load("sudoku")
    blanks, grids = sudoku.puzzles(sequences, 12, 7)
    return mdm.InformationProfile.estimate(
        model, tasks.sudoku_ids(grids), maskable=torch.from_numpy(blanks == 0)
    )


def code_profile(sequences, length=64):
    """Measure on windows of the standard library's held-out files."""
    from code_data import held_out_library

    model, tokenizer = tasks.load("code")
    text = "".join(held_out_library().values())
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
    starts = np.linspace(0, len(ids) - length, sequences).astype(int)
    return mdm.InformationProfile.estimate(
        model, torch.stack([ids[start : start + length] for start in starts])
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("profiles.json"))
    args = parser.parse_args()
    found = {
        "Sudoku": (sudoku_profile(args.sequences), "6x6, 12 clues, 24 cells"),
        "Python": (code_profile(args.sequences), "64 tokens of source, the shipped model"),
        "Sticky chain": (worlds()["sticky"].profile(), "64 letters that rarely change, exact"),
    }
    data = {
        name: {"h": [float(f"{value:.6g}") for value in profile.values], "about": about}
        for name, (profile, about) in found.items()
    }
    args.output.write_text(json.dumps(data) + "\n")
    for name, (profile, _) in found.items():
        print(name, profile)


if __name__ == "__main__":
    main()
