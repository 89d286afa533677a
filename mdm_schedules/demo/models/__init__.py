"""Two tiny masked diffusion language models for demonstrations and tests."""

from pathlib import Path

from mdm_schedules.errors import UnknownNameError

NAMES = ("code", "sudoku")


def path(name: str) -> Path:
    """Return the folder of a shipped model, for ``AutoModelForMaskedLM.from_pretrained``."""
    if name not in NAMES:
        raise UnknownNameError(f"no demo model is named {name!r}; the names are {', '.join(NAMES)}")
    return Path(__file__).parent / name
