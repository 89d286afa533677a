"""Each block of the guide runs, one after the other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_blocks_of_the_guide_run(tmp_path):
    text = (ROOT / "examples/guide/adaptive-commits.md").read_text(encoding="utf-8")
    script = tmp_path / "guide.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), "utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "[2, 2, 4, 8, 16]" in done.stdout


def test_a_learned_rule_runs(tmp_path):
    words = [ROOT / "examples/learned_commit.py", "--puzzles", "4", "--rounds", "20"]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "threshold(0.9)" in done.stdout
    assert done.stdout.count("valid") == 5
