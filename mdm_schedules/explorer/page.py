"""The page as one text, with a policy that lets nothing run but its own program."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from string import Template
from typing import Any

from mdm_schedules._version import __version__
from mdm_schedules.checks import check_int, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.explorer.recording import Recording
from mdm_schedules.information import InformationProfile
from mdm_schedules.lookup import get_schedule
from mdm_schedules.presets import list_presets
from mdm_schedules.schedules import Beta

MAX_PAGE_BYTES = 1_000_000
MAX_PROFILE_TOKENS = 8192
LOW, HIGH = 0.1, 2.0  # of the page's sliders for a and b
MOST_STEPS = 128  # of the slider


@dataclass(frozen=True)
class Table:
    """Text in rows and columns: the title, the head of each column, and the rows."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@cache
def _file(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")


def bundled_profiles() -> dict[str, dict[str, Any]]:
    """The profiles that ship with the page: name -> h and a sentence about it."""
    found: dict[str, dict[str, Any]] = json.loads(_file("profiles.json"))
    return found


def explore_page(
    schedule: Any = "beta(a=0.9, b=0.3)",
    *,
    steps: int = 16,
    num_tokens: int = 256,
    profiles: Mapping[str, InformationProfile] | None = None,
    recordings: Iterable[Recording] = (),
    table: Table | None = None,
) -> str:
    """The page as HTML.

    Args:
        schedule: a Beta, or its spec, that the sliders start with.
        steps: where the slider of passes starts, 1 to 128.
        num_tokens: where the slider of tokens starts, 1 to 512.
        profiles: name -> profile of your own; the first is shown at the start.
        recordings: runs to play.
        table: measured figures, shown with the runs.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, or a page of more than 1 MB.
    """
    start = get_schedule(schedule)
    if not isinstance(start, Beta) or not all(LOW <= x <= HIGH for x in (start.a, start.b)):
        raise InvalidValueError(
            f"the sliders are those of a Beta with a and b from {LOW} to {HIGH:g}, got "
            f"{shown(start.label)}; for example 'beta(a=0.9, b=0.3)'"
        )
    steps = check_int("steps", steps, 1, MOST_STEPS)
    num_tokens = check_int("num_tokens", num_tokens, 1, 512)
    own = {name: _profile(name, profile) for name, profile in (profiles or {}).items()}
    data = {
        "start": {"a": start.a, "b": start.b, "steps": steps, "tokens": num_tokens},
        "schedules": _presets(),
        "profiles": {**own, **bundled_profiles()},
        "recordings": [asdict(recording) for recording in recordings],
        "table": None if table is None else asdict(table),
    }
    page = _assemble(data)
    size = len(page.encode())
    if size > MAX_PAGE_BYTES:
        raise InvalidValueError(
            f"the page would have {size:,} bytes, and may have {MAX_PAGE_BYTES:,}; record shorter "
            "sequences or fewer of them"
        )
    return page


def _profile(name: str, profile: InformationProfile) -> dict[str, Any]:
    if not isinstance(profile, InformationProfile):
        raise InvalidTypeError(
            f"the profile {shown(name)} must be an InformationProfile, got "
            f"{type(profile).__name__}; read one with InformationProfile.from_pretrained(folder)"
        )
    check_int("tokens of a profile", profile.num_tokens, 1, MAX_PROFILE_TOKENS)
    # ten digits are more than was measured
    h = [float(f"{value:.10g}") for value in profile.values]
    return {"h": h, "about": repr(profile)}


def _presets() -> dict[str, tuple[float, float]]:
    """The Betas that the paper found best, by preset and number of steps."""
    found = {}
    for preset in list_presets():
        for steps in preset.steps:
            best = get_schedule(preset.best(steps).schedule)
            if isinstance(best, Beta):
                name = f"{preset.name} at {steps} steps: {best.spec}"
                found[name] = (best.a, best.b)
    return found


def _assemble(data: Mapping[str, Any]) -> str:
    style, script = _file("style.css"), _file("math.js") + _file("main.js")
    # what a model wrote is data in a block that no browser runs, and "<" cannot end that block
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return Template(_file("index.html")).substitute(
        POLICY=policy, STYLE=style, SCRIPT=script, DATA=text, VERSION=__version__
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
