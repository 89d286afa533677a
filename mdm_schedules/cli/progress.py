"""Progress where nobody watches: bars become a line now and then."""

from __future__ import annotations

import re
import time
from typing import Any, TextIO

FIRST, EVERY = 5.0, 20.0  # seconds until a bar's first line, and between two of them
_PICTURE = re.compile(r"\|[^|]*\|")  # between tqdm's percent and its counts
_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Lines:
    """A text stream that takes bars, as tqdm draws them, and passes on lines.

    A bar is drawn after a carriage return, again and again in the same place. In a file or a pipe
    each of them would stay, so one is written every `EVERY` seconds, with a line's end. All other
    text passes as it is.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._next: dict[str, float] = {}  # by what the bar is called
        self._drawing = False  # the end of the line that comes next belongs to a bar

    def write(self, text: str) -> int:
        """Write text, or a bar if it is time for one."""
        # tqdm returns the carriage before each bar, so what follows one is a bar, and all else is
        # text.
        for number, part in enumerate(re.split(r"\r(?!\n)", text)):
            if number:
                self._draw(part)
            elif part == "\n" and self._drawing:
                self._drawing = False
            elif part:
                self._drawing = False
                self.stream.write(part)
        return len(text)

    def _draw(self, bar: str) -> None:
        self._drawing = True
        told = " ".join(_PICTURE.sub("", _CODES.sub("", bar)).split())
        now = time.monotonic()
        name = re.split(r"\d", told)[0]
        if told and now >= self._next.setdefault(name, now + FIRST):
            self._next[name] = now + EVERY
            self.stream.write(told + "\n")
            self.stream.flush()

    def isatty(self) -> bool:
        """Nobody watches."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
