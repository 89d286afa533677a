"""Every Python block in every Markdown file, run as written, and what the pages say of themselves."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"CONTRIBUTING.md"}  # tests/testing/test_contributing.py runs its blocks
FILES = [
    path
    for folder in ("", "examples", "integrations", "mdm_schedules", ".github")
    for path in sorted((ROOT / folder).glob("*.md" if not folder else "**/*.md"))
    if path.name not in ELSEWHERE
]
#: a block of Python, and, where the page says so, what it prints
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:<!-- prints -->\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE
)
BLOCKS = [
    pytest.param(code, printed, id=f"{path.relative_to(ROOT)}-{number}")
    for path in FILES
    for number, (code, printed) in enumerate(BLOCK.findall(path.read_text(encoding="utf-8")))
]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "printed"), BLOCKS)
def test_the_block_runs_and_prints_what_the_page_says(code, printed, tmp_path, monkeypatch, capsys):
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    runpy.run_path(str(script), run_name="__main__")
    if printed:
        assert capsys.readouterr().out == printed


def test_the_readme_is_short_and_useful_at_once():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert any("mdm-schedules demo" in line for line in lines[:15])


def test_the_benchmarks_page_is_made_from_its_results():
    script = ROOT / "examples/benchmarks/tables.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pictures_exist(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in re.findall(r"!\[[^\]]*\]\(([^)#]+)", text):
        assert name.startswith("http") or (path.parent / name).is_file(), name
