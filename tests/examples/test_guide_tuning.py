"""The guides to tuning and to profiles, run as written, and their benchmarks in the quick form."""

import json

import pytest
from scripts import ROOT, blocks_of, output_of, run_page

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["tuning", "information-profiles"])
def test_the_guides_blocks_run_one_after_another(name, tmp_path):
    pytest.importorskip("matplotlib")
    assert len(blocks_of(f"{name}.md")) == 2
    run_page(f"{name}.md", tmp_path)
    picture = "front.png" if name == "tuning" else "calibration.png"
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_the_frontier_goes_on_and_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    words = [ROOT / "examples/benchmarks/commit_frontier.py", "--world", "sudoku", "--quick"]
    words += ["--output", "cells.json", "--figure", "front.png"]
    first = output_of(*words, cwd=tmp_path)
    told = json.loads((tmp_path / "cells.json").read_text())
    labels = {name.split(" | ")[2] for name in told["cells"]}
    assert {"linear", "tuned plan", "tuned commit", "KLASS 0.2", "dilated", "pc"} <= labels
    assert all(len(one["scores"]) == len(one["nfe"]) == 8 for one in told["cells"].values())
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    second = output_of(*words, cwd=tmp_path)
    table = first[first.index("| low_confidence") :]
    assert second.endswith(table)
    assert " s)" not in second, "nothing is measured again"
