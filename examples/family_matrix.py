"""The table in examples/guide/engines.md of what each model family does: run, and written.

    python examples/family_matrix.py             # run it here, and print the table
    python examples/family_matrix.py --write     # and keep what was found, and write the table

Each cell is a capability of tests/support/capabilities.py, run on a small random model of the
family's class. What was found is kept by version of transformers in examples/guide/families.json;
the table says yes, or how, where a cell worked with each version that has the class. Needs the
source tree.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GUIDE, FOUND = ROOT / "examples/guide/engines.md", ROOT / "examples/guide/families.json"
START, END = "<!-- matrix: python examples/family_matrix.py --write -->", "<!-- end of matrix -->"
sys.path.insert(0, str(ROOT / "tests/support"))


def columns() -> list[str]:
    """The columns that there are capabilities for."""
    from capabilities import CAPABILITIES
    from family_models import COLUMNS

    return [name for name in COLUMNS if name in CAPABILITIES]


def try_family(name: str, wanted: list[str]) -> dict[str, str] | None:
    """For each column "yes", or how, or why not; None where transformers has no such class."""
    import torch
    from capabilities import CAPABILITIES
    from family_models import FAMILIES

    family, found = FAMILIES[name], {}
    for column in wanted:
        model = family.build()
        if model is None:
            return None
        try:
            torch.manual_seed(0)
            found[column] = CAPABILITIES[column](model, family.tokenizer()) or "yes"
        except Exception as error:  # whatever it is, it is the answer
            found[column] = f"{type(error).__name__}: {error}".partition("\n")[0]
    return found


def table(kept: dict[str, dict[str, Any]]) -> str:
    """The Markdown table of what was found, with all versions that it was run with."""
    from family_models import FAMILIES

    wanted = list(
        dict.fromkeys(c for rows in kept.values() for row in rows.values() for c in row or ())
    )
    lines = [
        f"| family | adapter | transformers | {' | '.join(wanted)} |",
        "|---" * (3 + len(wanted)) + "|",
    ]
    for name, family in FAMILIES.items():
        rows = {version: row for version, rows in kept.items() if (row := rows.get(name))}
        cells = [_cell({v: row[c] for v, row in rows.items() if c in row}) for c in wanted]
        lines.append(f"| {name} | `{family.adapter}` | {family.versions} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Run with transformers {' and '.join(sorted(kept))}."])


def _cell(found: dict[str, str]) -> str:
    """One word where all versions agree, else what each of them does."""
    short = {version: "no" if ":" in answer else answer for version, answer in found.items()}
    if len(set(short.values())) == 1:
        return next(iter(short.values()))
    return ", ".join(f"{answer} ({version})" for version, answer in short.items())


def main() -> None:
    """Run every cell, and print or keep the table."""
    import transformers
    from family_models import FAMILIES

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="keep the results, write the table")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    kept = json.loads(FOUND.read_text()) if FOUND.is_file() else {}
    kept[transformers.__version__] = {name: try_family(name, columns()) for name in FAMILIES}
    if args.write:
        FOUND.write_text(json.dumps(kept, indent=1) + "\n")
        before, _, rest = GUIDE.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        GUIDE.write_text(f"{before}{START}\n{table(kept)}\n{END}{after}", encoding="utf-8")
    print(table(kept))
    for name, row in kept[transformers.__version__].items():
        for column, answer in (row or {}).items():
            if ":" in answer:
                print(f"{name}, {column}: {answer}", file=sys.stderr)


if __name__ == "__main__":
    main()
