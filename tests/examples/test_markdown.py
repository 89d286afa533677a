"""Every Python block in every Markdown file, run as written, and what the pages say of themselves."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: pages that a test of their own runs: test_contributing.py, test_guide_*.py
ELSEWHERE = {
    "CONTRIBUTING.md",
    "adaptive-commits.md",
    "caches.md",
    "information-profiles.md",
    "released-models.md",
    "tuning.md",
}
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
PAGES = [path for path in FILES if BLOCK.search(path.read_text(encoding="utf-8"))]


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_run_one_after_another_and_print_what_the_page_says(
    page, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    names = {"__name__": "__main__"}
    for number, (code, printed) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)
        said = capsys.readouterr().out
        assert not printed or said == printed


def test_the_readme_is_short_and_useful_at_once():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert any("mdm-schedules demo" in line for line in lines[:15])


def test_the_benchmarks_page_is_made_from_its_results():
    script = ROOT / "examples/benchmarks/tables.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_pictures_exist(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in re.findall(r"!\[[^\]]*\]\(([^)#]+)", text):
        assert name.startswith("http") or (path.parent / name).is_file(), name


def test_links_of_the_readme_work_on_pypi_too():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 10
    home = r"https://(raw\.githubusercontent|github)\.com/mdm-schedules/mdm-schedules/(blob/)?main/"
    for link in links:
        assert link.startswith("https://"), link
        if place := re.match(home, link):
            path, _, part = link[place.end() :].partition("#")
            assert (ROOT / path).exists(), link
            heads = re.findall(r"^#+ (.+)$", (ROOT / path).read_text("utf-8"), re.M) if part else []
            assert not part or part in [head.lower().replace(" ", "-") for head in heads], link
