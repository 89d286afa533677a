"""What the commands share: how they are added, and how they print."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mdm_schedules.checks import did_you_mean
from mdm_schedules.cli.command import CommandParser
from mdm_schedules.errors import InvalidValueError, MDMError, SeveralSchedulesError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mdm_schedules.hub import Evaluation

_IDS = ("mask_token_id", "pad_token_id", "eos_token_id", "suppress_tokens")
_LISTS = ("eos_token_id", "suppress_tokens")  # options of one number or several


def positive(text: str) -> int:
    """An argument that is an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def refuse_idle(args: argparse.Namespace, names: Iterable[str], needed: str) -> None:
    """Refuse flags that do nothing without what is `needed`."""
    for action in args.own._actions:
        if action.dest in names and getattr(args, action.dest) != action.default:
            args.usage(f"{action.option_strings[-1]} does nothing without {needed}")


def show_result(args: argparse.Namespace, data: Any, text: str) -> None:
    """Print `data` as JSON for machines, or `text`."""
    print(json.dumps(data, indent=2) if args.json else text)


@contextmanager
def in_shell_words() -> Iterator[None]:
    """Where several schedules fit, the choice as arguments of the command line."""
    try:
        yield
    except SeveralSchedulesError as error:
        words = [
            f"--subfolder {shlex.quote(path)}"
            + (f" (--task {shlex.quote(task)} --steps {steps})" if task else "")
            for path, task, steps in error.choices[:8]
        ]
        raise InvalidValueError(
            f"{error.where} holds {len(error.choices)} schedules that fit; choose one: "
            f"{', '.join(words) or 'none'}"
        ) from error


def scored(evaluation: Evaluation) -> str:
    """One line that reports what a schedule scored."""
    against = f", linear {evaluation.baseline_score}" if evaluation.baseline is not None else ""
    where = f"{evaluation.task} in {evaluation.steps} steps on {evaluation.model}"
    return f"{where}: {evaluation.metric} {evaluation.score}{against}"


def load_model(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model that the arguments of `add_model_arguments` name, and its tokenizer."""
    check_device(args.device)
    _check_dtype(args.dtype)
    from transformers.utils import logging

    from mdm_schedules.demo import models as demo_models
    from mdm_schedules.integrations.transformers import AutoModelForMaskedDiffusion
    from mdm_schedules.integrations.transformers.native import load_tokenizer
    from mdm_schedules.lookup import schedule_for_steps

    logging.disable_progress_bar()
    # A shipped model's name wins over a folder of that name: "./code" is the folder.
    path = str(demo_models.path(args.model)) if args.model in demo_models.NAMES else args.model
    # said either way, or transformers asks at the terminal
    remote = {"trust_remote_code": args.trust_remote_code}
    steps = args.steps if isinstance(args.steps, int) else None  # tune takes several
    schedule = None if args.schedule is None else schedule_for_steps(args.schedule, steps)
    try:
        model = AutoModelForMaskedDiffusion.from_pretrained(
            path, schedule=schedule, dtype=args.dtype, **remote
        )
        return model.to(args.device), load_tokenizer(path, **remote)
    except MDMError:
        raise
    except Exception as error:  # a model's own code may raise anything
        raise StorageError(f"cannot load {args.model}: {_trouble(args, error)}") from error


def _trouble(args: argparse.Namespace, error: Exception) -> str:
    """Why a model cannot be loaded, in a line."""
    import transformers

    text = str(error)
    if not args.trust_remote_code and "trust_remote_code" in text:
        return (
            "it comes with code of its own, which runs only if you say so: read it, then add "
            "--trust-remote-code"
        )
    lines = [line for line in text.splitlines() if line.strip()] or [repr(error)]
    if isinstance(error, OSError | ValueError | RuntimeError) or not args.trust_remote_code:
        return lines[0]
    return (
        f"its own code fails under transformers {transformers.__version__} "
        f"({type(error).__name__}: {lines[0]}); install the version that it was written for"
    )


def check_device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name)
    # what torch raises depends on its build
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError(
            f"--device {name} cannot be used here: {reason}; --device cpu always can"
        ) from error


def _check_dtype(name: str) -> None:
    import torch

    known = ("auto", "float32", "float16", "bfloat16", "float64")
    dtype = getattr(torch, name, None)
    if name != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InvalidValueError(
            f"--dtype must be a floating type of torch, got {name!r}.{did_you_mean(name, known)}"
        )


def add_model_arguments(
    command: CommandParser, default: str = "the model's own, else linear"
) -> None:
    """What `load_model` reads; `default` is that of the schedule."""
    command.add_argument(
        "--model", default="code", help="folder or Hub id, or a shipped one: code, sudoku"
    )
    command.add_argument(
        "--schedule",
        help=f"name, spec, folder, Hub id or preset (default: {default})",
    )
    command.add_argument("--device", default="cpu", help="such as cuda")
    command.add_argument(
        "--dtype", default="auto", help="such as bfloat16 (default: that of the files)"
    )
    command.add_argument(
        "--trust-remote-code", action="store_true", help="run the model code in its repository"
    )


def add_sampling_arguments(
    command: CommandParser, without: Sequence[str] = (), also: Sequence[str] = ()
) -> None:
    """A flag for every option of `generate` that text can give, from the table of options.

    Args:
        command: the parser.
        without: options that the command has in a form of its own, or not at all.
        also: of the options that no config holds or that only `generate` can check, those that the
            command takes.
    """
    command.later(lambda: _add_options(command, without, also))


def _add_options(command: CommandParser, without: Sequence[str], also: Sequence[str]) -> None:
    group = command.add_argument_group("sampling")
    for name, option in _flags(without, also):
        flag = "--" + name.replace("_", "-")
        settings: dict[str, Any] = {"dest": name, "help": _help(option)}
        if option.check is None:
            settings |= {"nargs": "+", "type": int} if name == "plan" else {}
        elif option.check.parse is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings["type"] = _checked(flag, option)
        if "action" not in settings:
            settings["metavar"] = "ID" if name in _IDS else name.upper()
        if name in _LISTS:
            settings["nargs"] = "+"
        group.add_argument(flag, **settings)


def sampling_options(
    args: argparse.Namespace, without: Sequence[str] = (), also: Sequence[str] = ()
) -> dict[str, Any]:
    """What the flags of `add_sampling_arguments` say, as options of `generate`."""
    given = {name: getattr(args, name) for name, _ in _flags(without, also)}
    return {name: value for name, value in given.items() if value is not None}


def _flags(without: Sequence[str], also: Sequence[str]) -> list[tuple[str, Any]]:
    from mdm_schedules.sampling.options import OPTIONS

    # the schedule is asked for with the model, and a seed is no matter of taste
    skipped = ("schedule", "seed", *without)
    return [
        (name, option)
        for name, option in OPTIONS.items()
        if name in also or (option.stored and option.check is not None and name not in skipped)
    ]


def _help(option: Any) -> str:
    """The help of the table, without what only Python can give."""
    # The table speaks of Python: objects cannot be typed, and names become flags.
    text = re.sub(r", or a (?:policy object|CommitRule)|, or a Schedule|^False ", "", option.help)
    text = re.sub(r"`(\w+)`", lambda name: "--" + name[1].replace("_", "-"), text)
    text = text.replace("commit=", "--commit ").replace("%", "%%").rstrip(".")
    if option.default is None and "default" in text:
        return text
    return f"{text} (default: {'not used' if option.default is None else option.default})"


def _checked(flag: str, option: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return option.check(flag, option.check.parse(text))
        except MDMError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    read.__name__ = option.check.parse.__name__  # for argparse's own message
    return read
