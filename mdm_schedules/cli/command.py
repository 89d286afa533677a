"""One command's parser: its help with defaults and examples, and flags that come later."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

LISTED = 14  # arguments that a usage lists


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that ends with each flag's default, and keeps the lines of examples."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        plain = action.default is None or action.default is False or action.nargs == 0
        return text if plain or "default" in text else f"{text} (default: %(default)s)"


class CommandParser(argparse.ArgumentParser):
    """A command's parser; what costs an import is added when it is asked for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help, **options})
        self._later: list[Callable[[], None]] = []

    def later(self, add: Callable[[], None]) -> None:
        """Run `add`, which adds arguments, once the command is asked for."""
        self._later.append(add)

    def complete(self) -> CommandParser:
        """With all arguments; where they are many, the usage leaves their list to the help."""
        while self._later:
            self._later.pop(0)()
        if len(self._actions) > LISTED:
            words = [action.dest for action in self._actions if not action.option_strings]
            self.usage = " ".join(["%(prog)s", *(f"[{word}]" for word in words), "[options]"])
        return self

    def example(self, *lines: str) -> None:
        """Show command lines below the help, each without the program's name."""
        shown = []
        for line in lines:
            parts = textwrap.wrap(
                f"mdm-schedules {line}", 92, break_on_hyphens=False, break_long_words=False
            )
            shown.append("  " + " \\\n      ".join(parts))
        self.epilog = "examples:\n" + "\n".join(shown)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the help is, in one line; exit status 2."""
        text = " ".join(f"{self.prog}: {message}; see {self.prog} --help".split())
        self.exit(2, text + "\n")


class Command(Protocol):
    """Adds one command: its name, what it runs, and what it does in a sentence."""

    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], None], text: str
    ) -> CommandParser: ...
