"""README's snippets and the scripts in examples/, run as written (with their quick options)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def run(*words, cwd):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_snippet(number, tmp_path):
    script = tmp_path / "snippet.py"
    check = "\nfrom mdm_schedules.testing import check_schedule\ncheck_schedule(Halfway(), registered=False)\n"
    script.write_text(SNIPPETS[number] + (check if "class Halfway" in SNIPPETS[number] else ""), encoding="utf-8")
    done = run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["code", "sudoku"])
def test_training_script(name, tmp_path):
    done = run(ROOT / f"examples/training/train_{name}.py", "--smoke", "--out", tmp_path / name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / name / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert (tmp_path / name / "model.safetensors").stat().st_size > 1000
    assert "nll_nats_per_token" in done.stdout


def test_sudoku_benchmark(tmp_path):
    words = ("--puzzles", 4, "--steps", 6, "--schedule", "linear", "--output", "out.json")
    done = run(ROOT / "examples/benchmarks/sudoku_accuracy.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())
    assert set(results) == {"random", "low_confidence"}
    assert set(results["random"]["linear()"]) == {"6"}
