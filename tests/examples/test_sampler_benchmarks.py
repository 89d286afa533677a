"""The sampler benchmarks with `--quick`: they run, count, and write the timed loops' tokens."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples/benchmarks"


def run(name, *words):
    command = [
        sys.executable,
        str(FOLDER / f"{name}.py"),
        "--quick",
        "--device",
        "cpu",
        *map(str, words),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_overhead(tmp_path):
    pytest.importorskip("diffusers")
    printed = run("sampler_overhead", "--output", tmp_path / "out.json")
    results = json.loads((tmp_path / "out.json").read_text())
    assert printed.count("\nTemperature ") == 2
    assert len(results["loops"]) == 8
    for row in results["counts"]:
        counts = row["rows_and_waits_per_step"]
        rows, waits = counts["ours"]
        assert rows == (row["block"] + 1) / 2  # the masked ones of the block
        assert waits < 0.25  # a few for the plan and one per block, in 128 steps
        assert counts["LLaDA"][0] == 192
        assert counts["diffusers"][0] == row["block"]
        assert counts["diffusers"][1] > 1


def test_end_to_end(tmp_path):
    printed = run("end_to_end", "--output", tmp_path / "out.json")
    assert "'ours': True" in printed
    assert len(json.loads((tmp_path / "out.json").read_text())) == 6


def test_memory():
    assert run("sampler_memory").count("| ours |") == 2
