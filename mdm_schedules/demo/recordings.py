"""Recorded runs of the shipped models, for the terminal and for pages."""

from __future__ import annotations

from functools import lru_cache

import torch

from mdm_schedules.demo import sudoku, tasks
from mdm_schedules.explorer import Recording
from mdm_schedules.explorer.recording import Run, run_of
from mdm_schedules.lookup import get_schedule

PUZZLE = {"clues": 12, "seed": 1}


@lru_cache(maxsize=4)
def sudoku_recording(
    schedules: tuple[str, ...] = ("linear", "sine"), steps: int = 20, puzzles: int = 40
) -> Recording:
    """One held-out 6x6 Sudoku under each schedule, in low-confidence order at temperature 0.

    Of `puzzles` it is the first on which the last schedule succeeds and the first one fails, if
    there is one: an example of the difference, not a measure of it.
    """
    model, tokenizer = tasks.load("sudoku")
    ids = tasks.sudoku_ids(sudoku.puzzles(puzzles, **PUZZLE)[0])
    chosen = [get_schedule(spec) for spec in schedules]
    outs = [model.generate(ids, schedule=one, steps=steps) for one in chosen]
    solved = [torch.from_numpy(sudoku.is_valid(tasks.sudoku_cells(out.sequences))) for out in outs]
    telling = (solved[-1] & ~solved[0]).nonzero().flatten().tolist()
    row = telling[0] if telling else 0
    runs = []
    for schedule, out in zip(chosen, outs, strict=True):
        run = run_of(out, schedule.spec, tokenizer, row)
        digits = tasks.sudoku_cells(out.sequences[row : row + 1])[0]
        # the tokenizer writes spaces between digits
        runs.append(Run(run.schedule, run.passes, tuple(str(digit) for digit in digits), run.when))
    about = (
        f"the shipped model on a held-out 6x6 Sudoku with {PUZZLE['clues']} clues, "
        f"{runs[0].passes} passes, low-confidence order, temperature 0; chosen as one where the "
        "schedules differ"
    )
    units = tuple(tuple(unit) for unit in sudoku.UNITS.tolist())
    return Recording("6x6 Sudoku", about, tuple(runs), columns=6, units=units)


def code_recording(schedules: tuple[str, ...] = ("linear", "beta(a=0.9, b=0.3)")) -> Recording:
    """The longest hidden line of the shipped gaps, with half as many passes as tokens."""
    model, tokenizer = tasks.load("code")
    gap = max(tasks.gaps()["line"], key=lambda gap: len(gap[1]))
    runs = []
    for schedule in map(get_schedule, schedules):
        out, *_ = tasks.write_gap(model, tokenizer, schedule, gap, tasks.GAP_SHARE, seed=0)
        runs.append(run_of(out, schedule.spec, tokenizer))
    about = (
        f"the shipped model on a held-out function, {runs[0].passes} passes, low-confidence order, "
        "temperature 0"
    )
    return Recording("A line of Python", about, (*runs,))
