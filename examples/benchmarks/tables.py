"""Writes examples/benchmarks/README.md from the results that lie in examples/benchmarks/results.

    python examples/benchmarks/tables.py

A file of results is a title and blocks in order: text, the command that was run, what it printed,
or a table of its figures. `--check` writes nothing, and fails where the page is not of these files.
"""

import argparse
import json
import re
import textwrap
from pathlib import Path

FOLDER = Path(__file__).parent
HEAD = """# Benchmarks

This page is written by `python examples/benchmarks/tables.py` from the files in `results`, which
hold what the scripts beside it printed. Each table stands below the command that made it. Errors
are one standard error.
"""


def table(head, rows):
    """Markdown of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def wrapped(text):
    """A paragraph, or a list of points, in lines of at most 100 columns."""
    points = re.split(r"\n(?=\* )", text)
    return "\n".join(
        textwrap.fill(
            " ".join(point.split()),
            100,
            subsequent_indent="  " if point.startswith("* ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for point in points
    )


def block(one):
    """Markdown of one block of a file of results."""
    ((kind, content),) = one.items()
    if kind == "table":
        return table(content["head"], content["rows"])
    if kind == "text":
        return wrapped(content)
    return f"```{'bash' if kind == 'command' else 'text'}\n{content}\n```"


def page():
    """The whole page."""
    files = [json.loads(path.read_text("utf-8")) for path in FOLDER.glob("results/*.json")]
    parts = [HEAD.rstrip()]
    for found in sorted(files, key=lambda one: one["order"]):
        parts += [f"## {found['title']}", *map(block, found["blocks"])]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    path, text = FOLDER / "README.md", page()
    if not args.check:
        path.write_text(text, "utf-8")
    elif path.read_text("utf-8") != text:
        raise SystemExit(f"{path} is not what its results give; run {Path(__file__).name}")


if __name__ == "__main__":
    main()
