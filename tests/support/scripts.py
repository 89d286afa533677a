"""Scripts and the Python blocks of a page, run in a process of their own as a user runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words, cwd):
    """Run Python with these words, offline and on one thread."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def output_of(*words, cwd):
    """What such a run prints; it has to succeed."""
    done = run(*words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks_of(page):
    """The Python blocks of a page in examples/guide."""
    text = (ROOT / "examples/guide" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_page(page, cwd):
    """What the blocks of a page print, run one after another."""
    (cwd / "guide.py").write_text("\n".join(blocks_of(page)), encoding="utf-8")
    return output_of("guide.py", cwd=cwd)
