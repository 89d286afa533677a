"""The command completion: a script for the shell, made from the parser."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from mdm_schedules.cli.command import Command, CommandParser
from mdm_schedules.cli.common import show_result

SHELLS = {
    "bash": 'eval "$(mdm-schedules completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(mdm-schedules completion zsh)"   # in ~/.zshrc, after compinit',
    "fish": "mdm-schedules completion fish | source   # in ~/.config/fish/config.fish",
}
PROGRAM = "mdm-schedules"


def _completion(args: argparse.Namespace) -> None:
    words = _words(args.parser)
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](words)
    show_result(args, {"shell": args.shell, "script": script}, script)


Words = dict[str, tuple[str, list[argparse.Action]]]  # command -> (what it does, its arguments)


def _words(parser: CommandParser) -> Words:
    (commands,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    about = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    return {
        name: (about[name], sub.complete()._actions)
        for name, sub in sorted(commands.choices.items())
    }


def _choices(action: argparse.Action) -> list[str]:
    return [str(choice) for choice in action.choices or ()]


def _quoted(action: argparse.Action) -> str:
    return shlex.quote(" ".join(_choices(action)))


def _summary(action: argparse.Action) -> str:
    """The first clause of its help, for shells that show one."""
    text: Any = (action.help or "").replace("%%", "%")
    return str(text).replace("\n", " ").partition(";")[0].partition(" (default")[0]


def _bash(words: Words, head: str = "") -> str:
    cases = []
    for name, (_, actions) in words.items():
        flags = " ".join(flag for action in actions for flag in action.option_strings)
        values = [
            f"        {'|'.join(action.option_strings)}) words={_quoted(action)} ;;"
            for action in actions
            if action.option_strings and action.choices
        ]
        plain = [
            word for action in actions if not action.option_strings for word in _choices(action)
        ]
        cases.append(
            f"    {name})\n      flags={shlex.quote(flags)}\n"
            f"      words={shlex.quote(' '.join(plain))}\n"
            + ("      case $before in\n" + "\n".join(values) + "\n      esac\n" if values else "")
            + "      ;;"
        )
    body = "\n".join(cases)
    return f"""{head}_mdm_schedules() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} flags= words=
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '{" ".join(words)} --help --version' -- "$current"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{body}
  esac
  if [[ $current == -* ]]; then words=$flags; fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _mdm_schedules {PROGRAM}"""


def _zsh(words: Words) -> str:
    return _bash(words, "autoload -U +X bashcompinit && bashcompinit\n")


def _fish(words: Words) -> str:
    lines = [f"complete -c {PROGRAM} -n __fish_use_subcommand -l version -d 'print the version'"]
    for name, (about, actions) in words.items():
        lines.append(
            f"complete -c {PROGRAM} -n __fish_use_subcommand -f -a {name} -d {shlex.quote(about)}"
        )
        start = f"complete -c {PROGRAM} -n '__fish_seen_subcommand_from {name}'"
        for action in actions:
            choices = _choices(action)
            told = f" -d {shlex.quote(_summary(action))}"
            listed = f" -x -a {shlex.quote(' '.join(choices))}" if choices else ""
            for flag in action.option_strings:
                kind = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                needs = " -r" if action.nargs != 0 and not choices else ""
                lines.append(f"{start} {kind}{listed}{needs}{told}")
            if choices and not action.option_strings:
                lines.append(f"{start} -f -a {shlex.quote(' '.join(choices))}")
    return "\n".join(lines)


def add(command: Command) -> None:
    """Add the command of this module."""
    sub = command("completion", _completion, "Print a script that completes words in your shell.")
    sub.add_argument("shell", choices=tuple(SHELLS), help="your shell")
    sub.epilog = "examples:\n" + "\n".join(f"  {line}" for line in SHELLS.values())
