"""The demonstration's tasks: run the shipped models with several schedules, and measure them."""

from __future__ import annotations

import ast
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import torch

from mdm_schedules.checks import check_int
from mdm_schedules.demo import models as demo_models
from mdm_schedules.demo import sudoku
from mdm_schedules.lookup import get_schedule

SCHEDULES = ("linear", "cosine", "sine")
STEPS = (6, 12, 20, 24)
TASK: dict[str, Any] = {"clues": 12, "remasking": "low_confidence", "temperature": 0.0}
TASK_TEXT = "12 clues, 24 cells to fill, low-confidence order, temperature 0: the defaults"
MAX_PUZZLES = 1 << 20
GAP_SCHEDULE = "linear()"  # the best in examples/benchmarks/README.md for hidden lines
GAP_SHARE = 0.5  # passes per token of a gap


@lru_cache(maxsize=1)
def gaps() -> dict[str, list[tuple[str, str, str]]]:
    """Return gaps in functions that the code model has not seen, by kind: "argument", "line".

    Each is what stands before a gap, in it and behind it. They are of the held-out files of
    CPython's standard library, as examples/benchmarks/code_infilling.py draws them.
    """
    text = resources.files(__package__).joinpath("gaps.json").read_text("utf-8")
    return {kind: [(a, b, c) for a, b, c in rows] for kind, rows in json.loads(text).items()}


@lru_cache(maxsize=2)
def load(name: str) -> tuple[Any, Any]:
    """Load the shipped model `name` ("code" or "sudoku") and its tokenizer; needs no network."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from mdm_schedules.integrations.transformers import AutoModelForMaskedDiffusion

    logging.disable_progress_bar()
    path = demo_models.path(name)
    return AutoModelForMaskedDiffusion.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def mask_gap(
    tokenizer: Any, before: str, gap: str, after: str, limit: int
) -> tuple[list[int], tuple[int, int], tuple[int, int]]:
    """Return token ids in which the tokens that reach into the gap are masks.

    Also return where these tokens begin and end, in the ids and in the text; a token may begin
    before the gap or end behind it. At most `limit` tokens around the gap are kept.
    """
    text, left, right = before + gap + after, len(before), len(before) + len(gap)
    told = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = told.offset_mapping
    inside = [i for i, (start, end) in enumerate(spans) if start < right and end > left]
    first, last = inside[0], inside[-1] + 1
    ids = list(told.input_ids)
    ids[first:last] = [tokenizer.mask_token_id] * (last - first)
    room = limit - (last - first)
    cut = max(0, first - max(room // 2, room - (len(ids) - last)))
    return ids[cut : cut + limit], (first - cut, last - cut), (spans[first][0], spans[last - 1][1])


def write_gap(
    model: Any, tokenizer: Any, schedule: Any, gap: tuple[str, str, str], share: float, seed: int
) -> tuple[Any, tuple[int, int], tuple[int, int]]:
    """Return what `generate` gives for a gap (before, in it, behind it), and `mask_gap`'s places.

    No special token is drawn.
    """
    ids, (first, last), place = mask_gap(
        tokenizer, *gap, limit=model.config.max_position_embeddings
    )
    special = [one for one in tokenizer.all_special_ids if one != tokenizer.mask_token_id]
    out = model.generate(
        torch.tensor([ids]),
        schedule=schedule,
        steps=max(1, math.ceil(share * (last - first))),
        seed=seed,
        suppress_tokens=special,
    )
    return out, (first, last), place


def fill_gap(
    schedule: str,
    before: str,
    gap: str,
    after: str,
    *,
    share: float = 0.5,
    seed: int = 0,
    model: Any = None,
    tokenizer: Any = None,
) -> tuple[str, int, int]:
    """Return the text with the gap as a code model writes it, the masked tokens and the passes.

    In low-confidence order, at temperature 0.

    Args:
        schedule: spec of the schedule.
        before: what stands before the gap.
        gap: what is hidden.
        after: what stands behind the gap.
        share: passes per masked token, in (0, 1].
        seed: of the noise.
        model: that fills the gap; the shipped code model by default.
        tokenizer: of that model, a fast one.
    """
    if model is None:
        model, tokenizer = load("code")
    out, (first, last), (start, end) = write_gap(
        model, tokenizer, schedule, (before, gap, after), share, seed
    )
    written = str(tokenizer.decode(out.sequences[0, first:last]))
    text = before + gap + after
    return text[:start] + written + text[end:], last - first, out.nfe


def parses(text: str) -> bool:
    """Return whether a piece of text is Python."""
    try:
        ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError):
        return False
    return True


def gap_rates(filled: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return how many gaps hold the true text, and leave valid Python: percent, standard error."""
    true = [gap["filled"] == gap["before"] + gap["hidden"] + gap["after"] for gap in filled]
    return {"exact": percent(true), "parses": percent([parses(gap["filled"]) for gap in filled])}


def format_rates(rates: Mapping[str, Mapping[str, tuple[float, float]]], number: int) -> str:
    """Format the rates of `number` gaps of each kind as Markdown."""
    lines = [f"| percent of {number} | as hidden | valid Python |", "|---|---|---|"]
    for kind, row in rates.items():
        cells = [f"{mean:.0f} ± {error:.0f}" for mean, error in row.values()]
        lines.append(f"| {kind}s | {' | '.join(cells)} |")
    return "\n".join(lines)


def percent(values: Sequence[bool]) -> tuple[float, float]:
    """Return a share in percent and its standard error, which is no less than half a case's."""
    share, number = sum(values) / len(values), len(values)
    return 100 * share, 100 * math.sqrt(max(share * (1 - share), 0.25 / number) / number)


def sudoku_accuracy(
    schedule: str,
    steps: int | None,
    *,
    puzzles: int = 200,
    clues: int = 6,
    remasking: str = "low_confidence",
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 200,
) -> tuple[float, float, int]:
    """Measure the share of held-out 6x6 puzzles that the model completes to a valid grid.

    Returns the share, its standard error, and the forward passes spent.

    Args:
        schedule: spec of the schedule.
        steps: forward passes; None is one token per pass.
        puzzles: number of held-out grids.
        clues: number of given cells, of 36.
        remasking: position policy.
        temperature: temperature of the draw.
        seed: chooses the puzzles and the noise.
        batch_size: puzzles per forward pass.
    """
    check_int("puzzles", puzzles, 1, MAX_PUZZLES)
    check_int("seed", seed, 0)  # of numpy's generators
    model, _ = load("sudoku")
    right, passes = 0, 0
    for rows in sudoku_ids(sudoku.puzzles(puzzles, clues, seed)[0]).split(batch_size):
        out = model.generate(
            rows,
            schedule=schedule,
            steps=steps,
            remasking=remasking,
            temperature=temperature,
            seed=seed,
        )
        right += int(sudoku.is_valid(sudoku_cells(out.sequences)).sum())
        passes = max(passes, out.nfe)
    share = right / puzzles
    return share, math.sqrt(max(share * (1 - share), 1 / puzzles / 4) / puzzles), passes


def sudoku_ids(grids: Any) -> torch.Tensor:
    """Return token ids, a LongTensor [B, 36], of grids [B, 36] of digits.

    A blank, 0, becomes the mask token.
    """
    tokenizer = load("sudoku")[1]
    ids = torch.tensor(tokenizer.convert_tokens_to_ids([tokenizer.mask_token, *"123456"]))
    return ids[torch.from_numpy(np.ascontiguousarray(grids)).long()]


def sudoku_cells(tokens: torch.Tensor) -> Any:
    """Return the digits [B, 36] of token ids [B, 36], 0 for tokens that are no digits."""
    digits = sudoku_ids(np.arange(1, 7))
    written = (tokens.cpu()[..., None] == digits).long()
    return torch.where(written.any(-1), written.argmax(-1) + 1, 0).numpy()


def valid_grid(output: torch.Tensor, answer: Any = None) -> float:
    """Return whether token ids [36] form a valid grid, as a metric for tuning."""
    return float(sudoku.is_valid(sudoku_cells(output[None]))[0])


def sudoku_objective(
    puzzles: int = 400, *, clues: int = 6, puzzle_seed: int = 0, **options: Any
) -> Any:
    """Return a `GenerationObjective`: the share of held-out 6x6 puzzles completed to a valid grid.

    The shipped model completes them.

    Args:
        puzzles: number of puzzles; each is an instance.
        clues: number of given cells, of 36.
        puzzle_seed: chooses the puzzles.
        **options: options of `GenerationObjective`: steps, remasking, temperature, seed,
            batch_size, ...
    """
    from mdm_schedules.checks import check_int
    from mdm_schedules.tuning import GenerationObjective

    puzzles = check_int("puzzles", puzzles, 1, MAX_PUZZLES)
    clues = check_int("clues", clues, 0, 35)
    blanks, grids = (sudoku_ids(rows) for rows in sudoku.puzzles(puzzles, clues, puzzle_seed))
    instances = [
        {"prompt": blank, "sequence": grid} for blank, grid in zip(blanks, grids, strict=True)
    ]
    named: dict[str, Any] = {"name": f"sudoku with {clues} clues", "batch_size": 200}
    return GenerationObjective(load("sudoku")[0], instances, valid_grid, **(named | options))


def accuracy_table(
    specs: Sequence[str], steps: Sequence[int], **options: Any
) -> dict[str, dict[int, tuple[float, float]]]:
    """Return spec -> steps -> (accuracy, standard error), and show a progress bar meanwhile.

    Equal plans are run once.
    """
    from tqdm.auto import tqdm

    cells, known = 36 - options.get("clues", 6), {}
    table: dict[str, dict[int, tuple[float, float]]] = {
        get_schedule(spec).spec: {} for spec in specs
    }
    with tqdm(total=len(table) * len(steps), desc="sudoku", unit="run") as bar:
        for spec, row in table.items():
            for step in steps:
                plan = tuple(get_schedule(spec).plan(cells, step).tolist())
                if options.get("remasking") == "ancestral":  # random counts with the plan's mean
                    plan = (spec, step)
                if plan not in known:
                    known[plan] = sudoku_accuracy(spec, step, **options)[:2]
                row[step] = known[plan]
                bar.update()
    return table


def format_table(table: dict[str, dict[int, tuple[float, float]]]) -> str:
    """Format the table as Markdown, in percent with one standard error."""
    steps = sorted({step for row in table.values() for step in row})
    lines = [
        "| schedule | " + " | ".join(f"{step} steps" for step in steps) + " |",
        "|---" * (len(steps) + 1) + "|",
    ]
    for spec, row in table.items():
        cells = [f"{100 * row[step][0]:.1f} ± {100 * row[step][1]:.1f}" for step in steps]
        lines.append(f"| {spec} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
