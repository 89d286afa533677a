"""The guide to caches and its two benchmarks, run as written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from caching import HOOKED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "examples/guide/caches.md").read_text(encoding="utf-8")
NEEDS_HOOKS = pytest.mark.skipif(not HOOKED, reason="encoders cannot be hooked")


def run(*words, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@NEEDS_HOOKS
def test_the_guides_blocks_run_one_after_another(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "guide.py").write_text("\n".join(blocks), encoding="utf-8")
    printed = run("guide.py", cwd=tmp_path)
    assert "CacheUse(mode='dual'" in printed
    assert "| half the steps | 50 %" in printed
    assert re.search(r"\d+ bytes", printed)


def test_the_benchmark_of_speed(tmp_path):
    families = ["blocks", "fast_dllm", "llada2", "llada", "dream", *["modernbert"] * HOOKED]
    words = ["--quick", "--steps", 2, "--new", 64, "--output", "out.json", "--family", *families]
    printed = run(ROOT / "examples/benchmarks/cache.py", *words, cwd=tmp_path)
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["family"] for row in rows] == families
    assert all(fewer > 1 for row in rows for fewer in row["fewer_columns"].values())
    assert printed.count("passes a block") == len(families)


@NEEDS_HOOKS
def test_the_benchmark_of_quality(tmp_path):
    words = ("--quick", "--task", "sudoku", "--output", "out.json")
    run(ROOT / "examples/benchmarks/cache_quality.py", *words, cwd=tmp_path)
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert found["instances"] == 4
    assert found["rows"][0]["metric"]["instances"] == 4
