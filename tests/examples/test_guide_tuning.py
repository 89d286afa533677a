"""The guides to tuning and to profiles, run as written, and their benchmarks in the quick form."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(*words, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["tuning", "information-profiles"])
def test_the_guides_blocks_run_one_after_another(name, tmp_path):
    pytest.importorskip("matplotlib")
    text = (ROOT / f"examples/guide/{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "guide.py").write_text("\n".join(blocks), encoding="utf-8")
    run("guide.py", cwd=tmp_path)
    picture = "front.png" if name == "tuning" else "calibration.png"
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_the_frontier_goes_on_and_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    words = [ROOT / "examples/benchmarks/commit_frontier.py", "--world", "sudoku", "--quick"]
    words += ["--output", "cells.json", "--figure", "front.png"]
    first = run(*words, cwd=tmp_path)
    told = json.loads((tmp_path / "cells.json").read_text())
    labels = {name.split(" | ")[2] for name in told["cells"]}
    assert {"linear", "tuned plan", "tuned commit", "KLASS 0.4", "dilated", "pc"} <= labels
    assert all(len(one["scores"]) == len(one["nfe"]) == 8 for one in told["cells"].values())
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    second = run(*words, cwd=tmp_path)
    table = first[first.index("| order |") :]
    assert second.endswith(table)
    assert "passes (" not in second  # nothing was measured again
