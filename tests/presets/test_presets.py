"""The paper's tables against a second transcription of them, and the names that reach them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

import mdm_schedules as mdm
from mdm_schedules.cli import main
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from mdm_schedules.presets import get_preset
from mdm_schedules.tuning import proposals

TABLES = json.loads((Path(__file__).parent / "paper_tables.json").read_text())
TASKS = [key for key in TABLES if key not in ("source", "notes")]


@pytest.mark.parametrize("task", TASKS)
def test_every_figure_is_the_papers(task):
    preset, table = get_preset(f"llada-8b/{task}"), TABLES[task]
    assert (preset.task, preset.gen_length, list(preset.steps)) == (
        task,
        table["gen_length"],
        table["steps"],
    )
    assert len(preset.rows) == len(table["rows"])
    for row, (key, figures) in zip(preset.rows, table["rows"].items(), strict=True):
        ours, theirs = mdm.get_schedule(row.schedule), mdm.get_schedule(key)
        assert ours == theirs
        assert list(zip(row.mean, row.standard_error, strict=True)) == [
            tuple(cell) for cell in figures
        ]


def test_there_is_a_preset_for_every_table_and_no_other():
    assert [preset.name for preset in mdm.list_presets()] == sorted(
        f"llada-8b/{x.replace('_', '-')}" for x in TASKS
    )


@pytest.mark.parametrize(
    ("name", "steps", "best"),
    [
        ("llada-8b/mbpp", 16, mdm.Beta(1.0, 0.2)),
        ("llada-8b/mbpp", 64, mdm.Beta(0.9, 0.3)),
        ("llada-8b/mbpp", 100_000, mdm.Linear()),
        ("LLaDA-8B/hendrycks_math", 1, mdm.Beta(1.0, 0.2)),
        ("llada-8b/gsm8k", 33, mdm.Linear()),  # Beta(0.8, 0.8) has the same mean at 32
        ("llada-8b/bbh", 11, mdm.Linear()),  # 8 is nearer than 16
        ("llada-8b/bbh", 12, mdm.Linear()),  # Beta(0.3, 0.3) is 0.1 standard errors ahead
        ("llada-8b/gsm8k", 16, mdm.Linear()),  # 1.04
        ("llada-8b/gsm8k", 8, mdm.Beta(0.9, 0.3)),  # 4.7
        ("llada-8b/humaneval", 128, mdm.Linear()),  # 1.2
        ("llada-8b/hendrycks-math", 128, mdm.Linear()),  # 1.7
    ],
)
def test_the_best_at_the_nearest_number_of_steps(name, steps, best):
    assert mdm.get_schedule(f"preset:{name}", steps=steps) == best
    assert mdm.get_schedule(f"preset:{name}(steps={steps})") == best
    assert mdm.get_schedule(f" preset:{name}({steps}) ") == best


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: mdm.get_schedule("preset:llada-8b/mbbp", steps=16),
            UnknownNameError,
            "'llada-8b/mbpp'",
        ),
        (lambda: mdm.get_schedule("preset:"), UnknownNameError, "llada-8b/mbpp"),
        (
            lambda: mdm.get_schedule("preset:llada-8b/mbpp"),
            InvalidValueError,
            re.escape("mbpp(steps=16)"),
        ),
        (
            lambda: mdm.get_schedule("preset:llada-8b/mbpp", steps=0),
            InvalidValueError,
            "steps must be",
        ),
        (lambda: mdm.get_schedule("preset:llada-8b/mbpp(0)"), InvalidValueError, "steps must be"),
        (
            lambda: mdm.get_schedule("preset:llada-8b/mbpp", steps=1.5),
            InvalidTypeError,
            "steps must be",
        ),
        (lambda: mdm.get_schedule("preset:llada-8b/mbpp", a=1), InvalidValueError, "steps only"),
        (lambda: mdm.get_schedule("preset:llada-8b/mbpp(8)", steps=8), InvalidValueError, "twice"),
        (lambda: mdm.get_schedule("preset:llada-8b/mbpp(x=8)"), UnknownNameError, "mbpp"),
        (lambda: get_preset(3), InvalidTypeError, "must be text"),
    ],
)
def test_bad_names_are_told(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_best_is_linear_unless_another_is_two_standard_errors_ahead():
    for preset in mdm.list_presets():
        linear = preset.rows[0]
        assert linear.schedule == "linear"
        for at, steps in enumerate(preset.steps):
            best = preset.best(steps)
            top = max(row.mean[at] for row in preset.rows)
            leader = next(row for row in preset.rows if row.mean[at] == top)
            gap = top - linear.mean[at]
            sure = gap > 2 * math.hypot(leader.standard_error[at], linear.standard_error[at])
            assert best == (leader if sure else linear)


def test_presets_say_what_they_were_measured_with():
    for preset in mdm.list_presets():
        assert preset.settings == (
            f"LLaDA-8B, {preset.gen_length} tokens, order low_confidence (inferred), temperature not "
            "recorded, block length not recorded"
        )


def test_tuning_starts_from_the_presets_of_its_order():
    def origins(order):
        return {one.origin for one in proposals.usual([16], order) if "preset:" in one.origin}

    assert origins(None) == origins("low_confidence") != set()
    assert origins("random") == set()


def test_the_command_line_lists_and_shows_them(capsys):
    assert main(["list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    for preset in mdm.list_presets():
        assert "2509.13866" in rows[f"preset:{preset.name}"]["source"]
    assert main(["show", "preset:llada-8b/mbpp(steps=16)", "--steps", "16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"] == mdm.Beta(1.0, 0.2).plan(256, 16).tolist()
