"""The guide to adaptive commits and its example of a learned rule, run as written."""

import pytest
from scripts import ROOT, output_of, run_page

pytestmark = pytest.mark.slow


def test_the_blocks_of_the_guide_run(tmp_path):
    assert "[2, 2, 4, 8, 16]" in run_page("adaptive-commits.md", tmp_path)


def test_a_learned_rule_runs(tmp_path):
    words = [ROOT / "examples/learned_commit.py", "--puzzles", "4", "--rounds", "20"]
    printed = output_of(*words, cwd=tmp_path)
    assert "threshold(0.9)" in printed
    assert printed.count("valid") == 5
