"""`mdm-schedules tune` from the command line."""

import json

import pytest

import mdm_schedules as mdm
from mdm_schedules.cli import main

pytest.importorskip("optuna")


def run(capsys, *words):
    status = main(["tune", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.slow
def test_sudoku_in_one_line(tmp_path, capsys):
    words = [
        "--model",
        "sudoku",
        "--steps",
        4,
        "--limit",
        12,
        "--screening",
        6,
        "--remasking",
        "random",
    ]
    places = [
        "--output",
        tmp_path / "found",
        "--report",
        tmp_path / "report.html",
        "--temperature",
        0.5,
    ]
    status, out, err = run(capsys, *words, *places)
    assert (status, err) == (0, "")
    assert "| schedule | origin | valid_grid |" in out
    assert "predicted" in out
    # Six instances are too few to show that anything is better than linear.
    kept = ("Too few instances: ", "No candidate was ahead", "No difference found")
    assert any(words in out for words in kept)
    assert "keep linear()" in out
    schedule = mdm.Schedule.from_pretrained(tmp_path / "found")
    assert (schedule.evaluation.model, schedule.evaluation.steps) == ("sudoku", 4)
    assert schedule.evaluation.sampler["remasking"] == "random"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    told = json.loads((tmp_path / "found/tuning.json").read_text())
    assert told["best_schedule"] == schedule.spec


def test_instances_of_a_file(tmp_path, capsys):
    rows = [
        {"prompt": "def __init__(sel", "answer": "f"},
        {"prompt": "    retur", "answer": "n"},
    ] * 4
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        tmp_path / "mine.jsonl",
        "--steps",
        1,
        2,
        "--max-new-tokens",
        2,
        "--metric",
        "contains",
        "--method",
        "grid",
    ]
    status, out, _ = run(
        capsys, *words, "--n-trials", 3, "--storage", tmp_path / "study.db", "--json"
    )
    told = json.loads(out)
    assert status == 0
    assert [choice["steps"] for choice in told["choices"]] == [None, 1, 2]
    assert told["metric"] == "contains"
    assert told["objective"]["name"] == "mine"
    before = told["trials"]
    status, out, _ = run(
        capsys, *words, "--n-trials", 3, "--storage", tmp_path / "study.db", "--json"
    )
    assert status == 0
    assert {row["schedule"] for row in json.loads(out)["trials"]} == {
        row["schedule"] for row in before
    }


def test_wrong_input_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x", "answer": "y"}\n{"prompt"\n')
    (tmp_path / "other.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    for words, message in (
        (["--steps", 4], "give a JSONL file"),
        ([tmp_path / "none.jsonl", "--steps", 4], "cannot read"),
        ([tmp_path / "bad.jsonl", "--steps", 4], "bad.jsonl, line 2: not JSON"),
        ([tmp_path / "other.jsonl", "--steps", 4], 'line 1: must be {"prompt"'),
        ([tmp_path / "empty.jsonl", "--steps", 4], "empty.jsonl is empty"),
        (["--model", "sudoku", "--steps", 4, "--limit", 0], "--limit must be an integer"),
        ([tmp_path / "bad.jsonl", "--steps", 4, "--lm-eval-task", "x"], "give either a file"),
    ):
        status, out, err = run(capsys, *words)
        assert (status, out) == (1, "")
        assert message in err
        assert err.count("\n") == 1
    for words in (["--model", "sudoku"], ["--model", "sudoku", "--steps", "0"]):
        with pytest.raises(SystemExit) as caught:
            main(["tune", *words])
        assert caught.value.code == 2
