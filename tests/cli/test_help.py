"""What the command line says of itself."""

import argparse
import shutil
import subprocess
import sys

import pytest

from mdm_schedules.cli import main
from mdm_schedules.cli.command import CommandParser
from mdm_schedules.cli.parser import MODULES, build_parser
from mdm_schedules.sampling.options import OPTIONS


def commands():
    parser, _ = build_parser([])
    (action,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return {name: sub.complete() for name, sub in action.choices.items()}


COMMANDS = commands()


def test_every_flag_has_help_and_says_its_default():
    for name, command in COMMANDS.items():
        for action in command._actions:
            where = (name, action.option_strings or action.dest)
            assert action.help, where
            if action.option_strings and action.nargs != 0 and not action.required:
                text = command._get_formatter()._expand_help(action)
                assert "default" in text.lower() or "--eos-token-id" in text, where
    assert len(COMMANDS) > len(MODULES)


def test_every_command_shows_examples_that_its_parser_takes():
    import shlex

    for name, command in COMMANDS.items():
        assert command.epilog.startswith("examples:\n"), name
        if name == "completion":
            continue
        for line in command.epilog.replace("\\\n", "").splitlines()[1:]:
            words = shlex.split(line.partition(" < ")[0])
            assert words[:2] == ["mdm-schedules", name]
            _, unknown = command.parse_known_args(words[2:])
            assert not unknown, line


def test_sample_has_a_flag_for_every_option_that_text_can_give():
    flags = {flag for action in COMMANDS["sample"]._actions for flag in action.option_strings}
    objects = {"logits_processor", "generation_config", "streamer", "callback", "progress"}
    objects |= {"tokenizer"}
    for name in OPTIONS.keys() - objects - {"output_history"}:
        assert "--" + name.replace("_", "-") in flags


@pytest.mark.slow
def test_help_and_version_import_no_torch(tmp_path):
    light = [
        name for name in COMMANDS if name not in ("sample", "tune", "eval", "cache", "explore")
    ]
    code = f"""
import sys
from mdm_schedules.cli import main
for words in [["--version"], ["--help"], *([name, "--help"] for name in {light!r})]:
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 0
    assert "torch" not in sys.modules, words
    assert "transformers" not in sys.modules, words
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["sample", "--prompt", "x", "--gen-length", "4"],
            "LLaDA's gen_length is --max-new-tokens",
        ),
        (["sample", "--prompt", "x", "--tempreature", "1"], "Did you mean '--temperature'"),
        (["sampel"], "Did you mean 'sample'"),
        (["list", "scedules"], "KIND must be"),
        (["sample", "--prompt", "x", "--top-k", "-1"], "--top-k must be"),
        (["sample", "--prompt", "x", "--prompts", "y"], "either --prompt TEXT or --prompts FILE"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_help(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert "--help" in err


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_flag(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert name in script
        for action in command._actions:
            for flag in action.option_strings:
                assert (
                    f"-l {flag[2:]} " if shell == "fish" and flag[1] == "-" else flag[1:]
                ) in script


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_flags_and_choices(capsys):
    main(["completion", "bash"])
    script = capsys.readouterr().out

    def completed(*words):
        line = " ".join(f"'{word}'" for word in words)
        ask = f"\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _mdm_schedules"
        run = ["bash", "-c", script + ask + '; echo "${COMPREPLY[@]}"']
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()

    assert completed("mdm-schedules", "sa") == ["sample"]
    assert completed("mdm-schedules", "sample", "--max-n") == ["--max-new-tokens"]
    assert completed("mdm-schedules", "sample", "--on-error", "") == ["stop", "skip"]
    assert completed("mdm-schedules", "completion", "f") == ["fish"]


def test_a_parser_completes_once():
    parser, calls = CommandParser(prog="x"), []
    parser.later(lambda: calls.append(1))
    parser.complete().complete()
    assert calls == [1]
