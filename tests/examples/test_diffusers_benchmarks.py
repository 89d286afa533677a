"""The benchmark scripts of the diffusers schedulers, at small sizes."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples/benchmarks"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(name, *words):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        with torch.random.fork_rng():
            module.main()
        return module, capsys.readouterr().out

    return run


def test_step_time(run, tmp_path):
    words = (
        "--batch",
        2,
        "--vocabulary",
        64,
        "--codes",
        16,
        "--sides",
        4,
        "--runs",
        1,
        "--steps",
        3,
    )
    _, printed = run("diffusers_step_time", *words, "--output", tmp_path / "times.json")
    rows = json.loads((tmp_path / "times.json").read_text())
    assert len(rows) == 5
    assert all(row["theirs_ms"] > 0 and row["ours_ms"] > 0 for row in rows)
    assert "image of 16 tokens" in printed


def test_digits(run, tmp_path):
    words = (
        "--seconds",
        1,
        "--samples",
        8,
        "--steps",
        2,
        4,
        "--schedule",
        "linear",
        "--output",
        tmp_path,
    )
    digits, printed = run("digits", *words)
    assert set(json.loads((tmp_path / "digits.json").read_text())["linear"]) == {"2", "4"}
    assert "valid, percent" in printed
    world, labels = digits.draw_world()
    assert labels.unique().tolist() == list(range(10))
    assert len(world.flatten(1).unique(dim=0)) == len(world)  # all pictures differ
    assert not (world == digits.MASK).any()
    perfect = digits.score(world, world, labels)
    assert (perfect["valid"], perfect["wrong"]) == (100, 0)
    assert perfect["digits"] == pytest.approx(100)
    worse = world.clone()
    worse[:, 0, 0] = (worse[:, 0, 0] + 1) % digits.MASK
    assert digits.score(worse, world, labels)["valid"] < 100
    # the picture of a code: bits from left to right, then down
    codes = torch.zeros(digits.GRID, digits.GRID, dtype=torch.long)
    codes[0, 1] = 0b0110
    assert digits.to_pixels(codes)[:2, 2:4].tolist() == [[0, 1], [1, 0]]
    assert int(digits.to_pixels(codes).sum()) == 2
