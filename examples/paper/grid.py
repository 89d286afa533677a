"""Runs the tables' grid on any model that loads and any lm-eval task that generates.

The command for it is `tables.py --model`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdm_schedules.integrations.lm_eval import lm_eval_objective
from mdm_schedules.presets import Preset, Row


def run_grid(args: Any, schedules: list[str], steps: list[int], gen_length: int) -> Preset:
    """Return percent correct and its standard error for each schedule and number of steps.

    `args` are those of `tables.py`.
    """
    objective = lm_eval_objective(
        args.model,
        None,
        args.task[0],
        metric=args.metric,
        limit=args.limit,
        num_fewshot=args.num_fewshot,
        apply_chat_template=args.chat,
        include_path=args.include_path,
        allow_code_execution=args.allow_code_execution,
        device=args.device,
        trust_remote_code=args.trust_remote_code,
        batch_size=args.batch_size,
        seed=args.seed,
        max_new_tokens=gen_length,
        block_length=args.block_length,
        remasking=args.remasking,
        temperature=args.temperature,
    )
    rows = []
    for schedule in schedules:
        cells = []
        for count in steps:
            scores = 100 * np.array(objective(schedule, steps=count).values)
            error = scores.std(ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
            cells.append((float(scores.mean()), float(error)))
            print(f"{schedule}, {count} steps: {cells[-1][0]:.2f} ± {cells[-1][1]:.2f}", flush=True)
        means, errors = zip(*cells, strict=True)
        rows.append(Row(schedule, means, errors))
    name, source = f"{args.model}/{args.task[0]}", f"run here, {args.remasking}, limit {args.limit}"
    return Preset(
        name=name,
        model=args.model,
        task=args.task[0],
        gen_length=gen_length,
        order=args.remasking,
        inferred=(),
        temperature=args.temperature,
        block_length=args.block_length,
        source=source,
        steps=tuple(steps),
        rows=tuple(rows),
    )
