"""A recorded run of grids as an animated GIF."""

from __future__ import annotations

import io
from typing import Any

from mdm_schedules.explorer import Recording

_CELL, _MARGIN, _HEAD = 44, 24, 60
_GROUND, _INK, _FAINT, _LINE = "#ffffff", "#1a1a1a", "#8a8a8a", "#c8c8c8"
_NEW, _WRONG = "#ffe08a", "#f2a65a"
_FRAME_MS, _LAST_MS = 400, 3500


def gif(recording: Recording, foot: str = "") -> bytes:
    """The passes, one frame each, the runs side by side; `foot` is a line below them."""
    last = max(run.passes for run in recording.runs)
    frames = [_frame(recording, number, foot) for number in range(last + 1)]
    out = io.BytesIO()
    times = [_FRAME_MS] * last + [_LAST_MS]
    frames[0].save(
        out, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True
    )
    return out.getvalue()


def _frame(recording: Recording, number: int, foot: str) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    columns, runs = recording.columns, recording.runs
    rows = len(runs[0].pieces) // columns
    side = columns * _CELL
    width = _MARGIN + len(runs) * (side + _MARGIN)
    height = _HEAD + rows * _CELL + 40 + (28 if foot else 0)
    image = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(image)
    head, digit, small = (ImageFont.load_default(size) for size in (20, 26, 15))
    for place, run in enumerate(runs):
        left = _MARGIN + place * (side + _MARGIN)
        wrong = recording.conflicts(run, number)
        draw.text((left, 8), run.schedule, _INK, head)
        draw.text((left, 34), f"pass {min(number, run.passes)} of {run.passes}", _FAINT, small)
        for cell, (piece, when) in enumerate(zip(run.pieces, run.when, strict=True)):
            x, y = left + cell % columns * _CELL, _HEAD + cell // columns * _CELL
            new = bool(when) and when == number
            fill = _WRONG if cell in wrong else _NEW if new else _GROUND
            draw.rectangle((x, y, x + _CELL, y + _CELL), fill, _LINE)
            if when <= number:
                middle = (x + _CELL / 2, y + _CELL / 2)
                draw.text(middle, piece, _INK if when else _FAINT, digit, anchor="mm")
            if cell in wrong:  # a mark beside the colour
                draw.line((x + 6, y + _CELL - 6, x + _CELL - 6, y + _CELL - 6), _INK, 2)
        below = _HEAD + rows * _CELL + 10
        draw.text((left, below), _state(run.when, number, len(wrong)), _INK, small)
    if foot:
        draw.text((_MARGIN, height - 28), foot, _FAINT, small)
    return image.quantize(32)


def _state(when: tuple[int, ...], number: int, wrong: int) -> str:
    left = sum(one > number for one in when)
    if left:
        return f"{left} to go" + (f", {wrong} in conflict" if wrong else "")
    return f"not solved: {wrong} in conflict" if wrong else "solved"
