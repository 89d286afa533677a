"""Flags that would do nothing are refused, and numbers that no command can use."""

import json

import pytest

import mdm_schedules as mdm
from mdm_schedules.cli import main


def told(words, capsys):
    """Return the status and the last line of a command that fails."""
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "flag", "needed"),
    [
        (["explore", "--temperature", "1"], "--temperature", "--record"),
        (["explore", "--under", "sine"], "--under", "--record"),
        (["explore", "--model", "sudoku"], "--model", "--record"),
        (["sample", "--prompt", "x", "--batch-size", "2"], "--batch-size", "--prompts FILE"),
        (["sample", "--prompt", "x", "--output", "o"], "--output", "--prompts FILE"),
        (["sample", "--prompt", "x", "--extend"], "--extend", "--prompts FILE"),
        (["tune", "--include-path", "."], "--include-path", "--lm-eval-task"),
        (["tune", "--dtype", "bfloat16"], "--dtype", "a file of instances"),
        (["tune", "x.jsonl", "--clues", "3"], "--clues", "the Sudokus of --model sudoku"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(words, flag, needed, tmp_path, capsys):
    if words[0] == "tune":
        words = [*words, "--model", "sudoku", "--steps", "4"]
    if words[0] == "explore":
        words = [*words, "--output", str(tmp_path / "page.html")]
    status, line = told(words, capsys)
    assert status == 2
    assert f"{flag} does nothing without {needed};" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explore", "--push", ""], "must be like 'user/schedules', got ''"),
        (["explore", "--page-steps", "1000"], "--page-steps must be an integer in [1, 128]"),
        (["explore", "--profile", "a\0b"], "cannot use the path 'a\\x00b'"),
        (["demo", "--pause", "-1"], "--pause must be a finite number in [0, inf), got -1"),
        (["demo", "--pause", "nan"], "--pause must be a finite number in [0, inf), got nan"),
        (["tune", "--model", "sudoku", "--steps", "4", "--rows", "-1"], "--rows: must be at least"),
        (["tune", "--model", "sudoku", "--steps", "4", "--device", "x"], "--device x cannot be"),
    ],
)
def test_what_no_command_can_use_is_refused(words, said, capsys):
    status, line = told(words, capsys)
    assert status
    assert said in line


@pytest.mark.slow
def test_the_schedule_in_use_stays_unless_another_is_shown_to_be_better(capsys):
    words = ["tune", "--model", "sudoku", "--steps", "4", "--limit", "8", "--n-trials", "2"]
    words += ["--screening", "4", "--method", "random", "--json", "--schedule", "cosine"]
    assert main(words) == 0
    (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
    assert mdm.get_schedule("cosine").spec in sentence
