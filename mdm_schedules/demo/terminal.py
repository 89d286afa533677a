"""Recorded runs as text: two grids side by side, pass by pass, with conflicts marked.

What is new stands in [brackets] and what is in conflict between !marks!, so that colour only adds.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from mdm_schedules.explorer import Recording, Run

_NEW, _WRONG, _FAINT, _END = "\x1b[30;43m", "\x1b[1;37;41m", "\x1b[2m", "\x1b[0m"
_GAP = "    "


@dataclass(frozen=True)
class Screen:
    """What a stream can show.

    Attributes:
        live: lines can be drawn over.
        colour: escape codes for colours are welcome.
        columns: width of the screen.
        blank: how a masked cell looks.
    """

    live: bool
    colour: bool
    columns: int
    blank: str


def screen_of(stream: TextIO) -> Screen:
    """A terminal is live; NO_COLOR, TERM=dumb and encodings without a dot are heeded."""
    live = stream.isatty() and os.environ.get("TERM") != "dumb"
    colour = live and not os.environ.get("NO_COLOR")
    try:
        "·".encode(stream.encoding or "ascii")
        blank = "·"
    except (UnicodeEncodeError, LookupError):
        blank = "."
    return Screen(live, colour, shutil.get_terminal_size((100, 24)).columns, blank)


def grids(recording: Recording, number: int, screen: Screen) -> list[str]:
    """The grids after pass `number`, side by side, or one below the other if that is too wide."""
    blocks = [_grid(recording, run, number, screen) for run in recording.runs]
    width = _width(recording)
    if len(blocks) * (width + len(_GAP)) - len(_GAP) > screen.columns:
        return [line for block in blocks for _, line in [*block, (0, "")]]
    lines = []
    for row in zip(*blocks, strict=True):
        padded = [line + " " * (width - seen) for seen, line in row]
        lines.append(_GAP.join(padded).rstrip())
    return lines


def _width(recording: Recording) -> int:
    return max(3 * recording.columns, 20)


def _grid(recording: Recording, run: Run, number: int, screen: Screen) -> list[tuple[int, str]]:
    """Lines of one grid, each with the number of columns that it takes."""
    wrong = recording.conflicts(run, number)
    left = sum(when > number for when in run.when)
    heads = [run.schedule, f"pass {min(number, run.passes)} of {run.passes}"]
    lines = [(len(head), head) for head in heads]
    for start in range(0, len(run.pieces), recording.columns):
        cells = [
            _cell(run, cell, number, cell in wrong, screen)
            for cell in range(start, start + recording.columns)
        ]
        lines.append((3 * recording.columns, "".join(cells)))
    foot = f"{left} to go" if left else "solved" if not wrong else "not solved"
    if wrong:
        foot += f", {len(wrong)} wrong"
    return [*lines, (len(foot), foot)]


def _cell(run: Run, cell: int, number: int, wrong: bool, screen: Screen) -> str:
    when = run.when[cell]
    if when > number:
        text, code = f" {screen.blank} ", _FAINT
    elif wrong:
        text, code = f"!{run.pieces[cell]}!", _WRONG
    elif when and when == number:
        text, code = f"[{run.pieces[cell]}]", _NEW
    else:
        text, code = f" {run.pieces[cell]} ", ""
    return f"{code}{text}{_END}" if screen.colour and code else text


def play(
    recording: Recording,
    pause: float,
    stream: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Draw the passes over each other on a terminal; elsewhere print the first and last state.

    Args:
        recording: of grids.
        pause: seconds between passes.
        stream: standard output by default.
        sleep: waits.
    """
    stream = sys.stdout if stream is None else stream
    screen, last = screen_of(stream), max(run.passes for run in recording.runs)
    if not screen.live:
        for number in (0, last):
            stream.write("\n".join(grids(recording, number, screen)) + "\n\n")
        return
    stream.write("\x1b[?25l")  # no cursor
    try:
        for number in range(last + 1):
            lines = grids(recording, number, screen)
            up = f"\x1b[{len(lines)}A" if number else ""
            stream.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
            stream.flush()
            sleep(pause)
    finally:
        stream.write("\x1b[?25h\n")
        stream.flush()
