"""The command eval."""

import functools
import json

import pytest
from lm_eval.tasks import TaskManager

from mdm_schedules.cli import main


@pytest.fixture
def run(capsys, tasks, monkeypatch):
    """Run `mdm-schedules eval` with the tasks above only; indexing lm-eval's takes seconds."""
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager", functools.partial(TaskManager, include_defaults=False)
    )

    def command(*words):
        status = main(["eval", "--include-path", str(tasks.folder), *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.mark.slow
def test_eval_prints_a_table_and_writes_the_results(run, tmp_path):
    words = [
        "--tasks",
        "both,chooses",
        "--schedule",
        "beta(a=0.9, b=0.3)",
        "--steps",
        2,
        "--mc-num",
        3,
    ]
    status, out, _ = run(
        *words, "--batch-size", 2, "--log-samples", "--output", tmp_path, "--max-new-tokens", 4
    )
    assert status == 0
    assert out.startswith("|")
    rows = [line.split("|")[1].strip() for line in out.splitlines()]
    assert rows == [
        "Tasks",
        "-" * 9,
        "both",
        "- misses",
        "",
        "- writes",
        "chooses",
        "Groups",
        "------",
        "both",
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["config"]["model_args"]["schedule"] == "beta(a=0.9, b=0.3)"
    assert len(results["samples"]["writes"]) == 3
    status, out, _ = run(
        "--tasks", "misses", "--limit", 2, "--json", "--output", tmp_path / "x.json"
    )
    shown = json.loads(out)
    assert (status, shown["n-samples"]["misses"]["effective"], "samples" in shown) == (0, 2, False)
    assert json.loads((tmp_path / "x.json").read_text()) == shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "x.json"]


def test_eval_refuses_values_of_flags_as_wrong_usage(run, tasks, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--tasks", "writes", "--steps", "0")
    assert caught.value.code == 2
    assert "--steps must be an integer >= 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--tasks wrties", "lm-eval has no task 'wrties'; did you mean writes"),
        ("--tasks ,", "no tasks were given"),
        ("--tasks writes --limit 0", "--limit must be an integer >= 1"),
        ("--tasks writes --output no/such/x.json", "cannot write 'no/such/x.json'"),
        ("--tasks writes --schedule lineer", "Did you mean 'linear'"),
        ("--tasks writes --max-new-tokens 300", "leaves no room for the prompt"),
        ("--tasks writes --apply-chat-template", "no chat template"),
        ("--tasks writes --model sudoku", "the tokenizer cannot read"),
        ("--tasks writes --model no/such", "cannot load no/such"),
        ("--tasks lost", "cannot load the task lost"),
        ("--tasks writes,lost.yaml", "lm-eval has no task 'lost.yaml'"),
    ],
)
def test_eval_tells_errors_in_one_line(run, tasks, words, said):
    lost = {
        "task": "lost",
        "dataset_path": "nobody/nothing",
        "test_split": "test",
        "doc_to_text": "x",
        "doc_to_target": "y",
    }
    (tasks.folder / "lost.yaml").write_text(json.dumps(lost))
    status, out, err = run(*words.split())
    assert (status, out) == (1, "")
    (line,) = [line for line in err.splitlines() if line.startswith("mdm-schedules:")]
    assert said in line
    assert "Traceback" not in err
