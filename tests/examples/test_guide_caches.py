"""The guide to caches and its two benchmarks, run as written."""

import json
import re

import pytest
from caching import HOOKED
from scripts import ROOT, blocks_of, output_of, run_page

pytestmark = pytest.mark.slow

NEEDS_HOOKS = pytest.mark.skipif(not HOOKED, reason="encoders cannot be hooked")


@NEEDS_HOOKS
def test_the_guides_blocks_run_one_after_another(tmp_path):
    assert len(blocks_of("caches.md")) == 3
    printed = run_page("caches.md", tmp_path)
    assert "CacheUse(mode='dual'" in printed
    assert "| half the steps | 50 %" in printed
    assert re.search(r"\d+ bytes", printed)


def test_the_benchmark_of_speed(tmp_path):
    families = ["blocks", "fast_dllm", "llada2", "llada", "dream", *["modernbert"] * HOOKED]
    words = ["--quick", "--steps", 2, "--new", 64, "--output", "out.json", "--family", *families]
    printed = output_of(ROOT / "examples/benchmarks/cache.py", *words, cwd=tmp_path)
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["family"] for row in rows] == families
    assert all(fewer > 1 for row in rows for fewer in row["fewer_columns"].values())
    assert printed.count("passes a block") == len(families)


@NEEDS_HOOKS
def test_the_benchmark_of_quality(tmp_path):
    words = ("--quick", "--task", "sudoku", "--output", "out.json")
    output_of(ROOT / "examples/benchmarks/cache_quality.py", *words, cwd=tmp_path)
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert found["instances"] == 4
    assert found["rows"][0]["metric"]["instances"] == 4
