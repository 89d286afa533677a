"""Errors of the library in the command line's own words: flags, not Python keywords."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdm_schedules.cli.command import CommandParser

# what a command calls otherwise than the library: keyword -> flag
_RENAMED = {
    "output_path": "--output",
    "add_special_tokens": "--special-tokens",
    "trust_remote_code": "--trust-remote-code",
}
_VALUE = r"""(True|False|None|'[^']*'|"[^"]*"|\[[^\]]*\]|\.\.\.|[\w.+-]*\w)"""
_NAMES = r"generate|tune|get_schedule|generate_distributed|schedule\.plan"
_CALL = rf"\b(?:{_NAMES})\(((?:[^()]|\([^()]*\))*)\)"
_OTHER_CALL = r"[\w.]\([^()]*\)"  # a spec, or a call that is no command
_IN_TEXT = r"(?<![\w(/.'\"-])"  # not in a path, a quotation or a spec


def in_flags(text: str, command: CommandParser | None) -> str:
    """The message with the command's flags in place of keywords.

    "top_k must be" is "--top-k must be"; "overwrite=True" is "--overwrite"; "steps=8" is
    "--steps 8". Text in quotation marks and in parentheses, such as specs, stays.
    """
    if command is None:
        return text
    flags = {}
    for action in command._actions:
        for flag in action.option_strings:
            if flag.startswith("--") and not flag.startswith("--no-"):
                flags[flag[2:].replace("-", "_")] = flag
    known = set(command._option_string_actions)
    flags |= {name: flag for name, flag in _RENAMED.items() if flag in known}

    def given(name: str, value: str) -> str:
        if name not in flags:
            return f"{name}={value}"
        if value == "True":
            return flags[name]
        if value == "False":
            negative = "--no-" + flags[name][2:]
            return negative if negative in known else f"no {flags[name]}"
        if value.startswith("["):
            value = value[1:-1].replace(",", "")
        return f"{flags[name]} {value.strip(chr(39) + chr(34))}"

    def said(match: re.Match[str]) -> str:
        if match[2]:
            return given(match[2], match[3])
        words = [given(*one) for one in re.findall(rf"\b(\w+)={_VALUE}", match[1] or "")]
        return " ".join(words) if words and all(word[0] == "-" for word in words) else match[0]

    text = re.sub(rf"{_CALL}|{_OTHER_CALL}|{_IN_TEXT}(\w+)={_VALUE}", said, text)

    def named(match: re.Match[str]) -> str:
        return flags.get(match[1], match[0])

    # one word may be an English one, so it counts only where it is the subject
    text = re.sub(rf"{_IN_TEXT}([a-z]+(?:_[a-z]+)+)(?![\w/.(='\"-])", named, text)
    subject = re.sub(r"^(\w+)(?= must | is given | takes | needs )", named, text)
    return re.sub(rf"(?<!a )(?<!the )(?<!each ){_IN_TEXT}([a-z]+)(?= must be )", named, subject)
