"""From lm-eval's model arguments and a task's generation settings to the options of `generate`."""

from __future__ import annotations

import ast
import os
from typing import Any

from mdm_schedules.checks import say_once
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.lookup import get_schedule
from mdm_schedules.sampling.names import unknown_option
from mdm_schedules.sampling.options import STORED

#: what may be said of sampling, as an argument of the model or by a task
OPTIONS = tuple(name for name in STORED if name not in ("seed", "num_return_sequences"))
# lm-eval's order
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_WARPS = ("temperature", "top_k", "top_p")
DEFAULT_LENGTH = 256  # lm-eval's


def parse_arguments(text: str) -> dict[str, Any]:
    """'pretrained=x,schedule=beta(a=0.9,b=0.3),steps=16' as a dict.

    Commas inside brackets separate nothing.
    """
    parts, depth = [""], 0
    for letter in text:
        # Only a comma outside all brackets separates arguments.
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    arguments = {}
    for part in filter(str.strip, parts):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidValueError(
                f"model_args must be name=value, separated by commas; got {part!r}"
            )
        arguments[name.strip()] = _value(value.strip())
    return arguments


def _value(text: str) -> Any:
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_options(options: dict[str, Any], others: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options that were given; an unknown name or an invalid schedule is an error.

    `others` are the names that the constructor takes besides, for the message.
    """
    for name in options:
        if name not in OPTIONS:
            raise unknown_option(name, "the model has no argument", (*OPTIONS, *others))
    given = {name: value for name, value in options.items() if value is not None}
    if "schedule" in given:
        given["schedule"] = get_schedule(given["schedule"])
    return given


def task_options(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A request's generation settings as options of `generate`, and its stop strings.

    As for lm-eval's own models, `do_sample` False means temperature 0, and the length is 256 tokens
    if nothing is said.
    """
    # `left` shrinks to what nothing here understands, which is said once.
    left = dict(settings)
    until = left.pop("until", None) or []
    lengths = [length for name in _LENGTHS if (length := left.pop(name, None)) is not None]
    sample = left.pop("do_sample", None)
    # Greedy by the task's own words: its temperature and top_p do not count then.
    if sample is False:
        left = {name: value for name, value in left.items() if name not in _WARPS}
    given = {name: left.pop(name) for name in list(left) if name in OPTIONS}
    for name in left:
        say_once(
            f"the generation setting {name!r} of the task says nothing to a masked diffusion "
            "model; it is ignored"
        )
    if sample:
        given.setdefault("temperature", 1.0)
    given["max_new_tokens"] = lengths[0] if lengths else DEFAULT_LENGTH
    given = {name: value for name, value in given.items() if value is not None}
    return given, [until] if isinstance(until, str) else list(until)


def load_tokenizer(given: Any, pretrained: Any, files: dict[str, Any]) -> Any:
    """`given`, or what is loaded from there, or from where the model came."""
    from mdm_schedules.integrations.transformers.native import load_tokenizer as load

    if given is not None and not isinstance(given, str | os.PathLike):
        return given
    if given is None and not isinstance(pretrained, str | os.PathLike):
        pretrained = getattr(pretrained, "name_or_path", None)
        if not pretrained:
            raise InvalidTypeError(
                "a model that was not loaded from a folder or the Hub needs tokenizer=..."
            )
    return load(pretrained if given is None else given, **files)
