"""The options of `generate`, each stated once: type, default, constraint, help, other names.

`GenerateOptions` is the table. Everything that takes options reads it: the signature, docstring and
checks of `generate`, the generation config, the pipeline, distributed jobs, lm-eval, and the
command line's flags and help. A new option is one entry here, and code where it has its effect.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import torch
from typing_extensions import TypedDict, get_type_hints

from mdm_schedules.checks import did_you_mean
from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.sampling.commits import CommitRule
from mdm_schedules.sampling.constraints import (
    Checked,
    Real,
    TokenIds,
    Truth,
    Whole,
    commit_text,
    remasking_text,
    schedule_text,
)
from mdm_schedules.sampling.draw import LogitsProcessor
from mdm_schedules.sampling.output import StepInfo
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy, PolicyName
from mdm_schedules.schedules import Schedule

# --- the table


@dataclass(frozen=True)
class Option:
    """One option of `generate`.

    Attributes:
        help: what it does, for the docstring and the command line.
        default: what holds where nobody gives it.
        check: its constraint; None for what only `generate` can check.
        stored: whether a generation config can hold it.
        other_names: what it is called elsewhere -> where.
    """

    help: str
    default: Any = None
    check: Whole | Real | Truth | TokenIds | Checked | None = None
    stored: bool = True
    other_names: Mapping[str, str] = field(default_factory=dict)


class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of `generate`. None is the config's value, else the default."""

    schedule: Annotated[
        str | os.PathLike[str] | Schedule | None,
        Option(
            "how many tokens each pass reveals: name, spec, folder, Hub id, preset or Schedule; "
            "`steps` chooses where there are several. By default the model's own, else linear.",
            check=Checked(schedule_text),
            other_names={"noise_schedule": "MMaDA", "scheduler": "diffusers"},
        ),
    ]
    steps: Annotated[
        int | None,
        Option(
            "forward passes in all, shared among blocks; by default one per token.",
            check=Whole(1),
            other_names={
                "num_inference_steps": "diffusers",
                "diffusion_steps": "Dream",
                "num_steps": "MDLM",
            },
        ),
    ]
    max_new_tokens: Annotated[
        int | None,
        Option(
            "masks appended to the prompt; by default none to a prompt that holds masks.",
            check=Whole(0),
            other_names={"gen_length": "LLaDA", "max_gen_toks": "lm-eval", "max_tokens": "vLLM"},
        ),
    ]
    block_length: Annotated[
        int | None,
        Option(
            "write blocks of so many tokens from left to right, the last one perhaps shorter; by "
            "default all at once.",
            check=Whole(1),
            other_names={"block_size": "dLLM"},
        ),
    ]
    remasking: Annotated[
        PolicyName | str | ConfidencePolicy | OrderPolicy | None,
        Option(
            "which positions are revealed first: low_confidence, margin, entropy, random, "
            "ancestral, left_to_right, or a policy object.",
            default="low_confidence",
            check=Checked(remasking_text),
            other_names={"alg": "Dream"},
        ),
    ]
    temperature: Annotated[
        float | None,
        Option(
            "0 takes the most probable token. Confidence is read before it is applied.",
            default=0.0,
            check=Real(0),
        ),
    ]
    mask_token_id: Annotated[
        int | None,
        Option(
            "by default that of the model's config.",
            check=Whole(0),
            other_names={"mask_id": "LLaDA"},
        ),
    ]
    seed: Annotated[
        int | Sequence[int] | torch.Tensor | None,
        Option(
            "None, an int, or one int per returned row. A sequence draws the same tokens whatever "
            "the batch around it.",
            other_names={"generator": "diffusers", "random_seed": "lm-eval"},
        ),
    ]
    plan: Annotated[
        Any,
        Option(
            "tokens per step in place of schedule and steps, [steps] or [B, steps], for each "
            "block. A plan given here overrides a schedule and steps kept in a config, and either "
            "of these a plan kept there.",
        ),
    ]
    top_k: Annotated[
        int | None,
        Option("draw among so many of the most probable tokens; 0 among all.", check=Whole(0)),
    ]
    top_p: Annotated[
        float | None,
        Option(
            "draw among the most probable tokens that together have this probability, in (0, 1].",
            check=Real(0, 1, low_open=True),
        ),
    ]
    suppress_tokens: Annotated[
        Sequence[int] | None,
        Option(
            "token ids that are never drawn.",
            check=TokenIds(),
            other_names={"bad_words_ids": "transformers"},
        ),
    ]
    infill: Annotated[
        bool | None,
        Option("False refuses prompts that hold the mask token.", default=True, check=Truth()),
    ]
    commit: Annotated[
        str | CommitRule | None,
        Option(
            "a rule by which a pass reveals more than the plan where the model is sure: "
            "threshold(0.9), entropy_bound(0.1), or a CommitRule.",
            check=Checked(commit_text),
        ),
    ]
    threshold: Annotated[
        float | None,
        Option(
            "short for commit=threshold(...): with low_confidence, each pass also reveals every "
            "token whose probability is above this, in [0, 1]; at 1 there is none.",
            check=Real(0, 1),
            other_names={"confidence_threshold": "dInfer"},
        ),
    ]
    entropy_bound: Annotated[
        float | None,
        Option(
            "short for commit=entropy_bound(...): with the entropy policy, each pass also reveals "
            "the surest tokens up to this joint entropy, in nats.",
            check=Real(0),
        ),
    ]
    remask_fraction: Annotated[
        float | None,
        Option(
            "share of revealed tokens that each pass masks again (ReMDM), in [0, 1]; the passes "
            "stay as planned.",
            default=0.0,
            check=Real(0, 1),
            other_names={"remask": "earlier versions"},
        ),
    ]
    cfg_scale: Annotated[
        float | None,
        Option(
            "classifier-free guidance: u + (cfg_scale + 1)(c - u) of the logits c with and u "
            "without the prompt. Each pass then runs the model on twice the batch.",
            default=0.0,
            check=Real(0),
            other_names={"cfg": "MMaDA", "guidance_scale": "diffusers"},
        ),
    ]
    eos_token_id: Annotated[
        int | Sequence[int] | torch.Tensor | None,
        Option(
            "end a row at this token (or these) in its answer once all before it is filled. By "
            "default rows go on to the end, as the models' own samplers do.",
            check=TokenIds(),
        ),
    ]
    pad_token_id: Annotated[
        int | None,
        Option("what follows the end; by default the first `eos_token_id`.", check=Whole(0)),
    ]
    num_return_sequences: Annotated[
        int | None,
        Option("answers per prompt, next to each other.", default=1, check=Whole(1, 1 << 20)),
    ]
    # --- of one call only
    logits_processor: Annotated[
        LogitsProcessor | Sequence[Any] | None,
        Option(
            "(input_ids [R, L], scores [R, V]) -> scores, or a LogitsProcessorList, before the "
            "draw; R are the positions asked for, each with its whole sequence.",
            stored=False,
        ),
    ]
    generation_config: Annotated[
        Any,
        Option(
            "a MaskedDiffusionGenerationConfig; of a plain GenerationConfig only max_new_tokens, "
            "num_return_sequences and, with do_sample, temperature, top_k and top_p are taken; "
            "beam search is refused.",
            stored=False,
        ),
    ]
    adapter: Annotated[
        str | None,
        Option("name of the model adapter; by default chosen by the model.", stored=False),
    ]
    streamer: Annotated[
        Any,
        Option(
            "a transformers TextDiffusionStreamer or TextStreamer; one sequence only.",
            stored=False,
        ),
    ]
    callback: Annotated[
        Callable[[StepInfo], object] | None,
        Option("called with a `StepInfo` after each pass.", stored=False),
    ]
    progress: Annotated[
        bool, Option("show a progress bar.", default=False, check=Truth(), stored=False)
    ]
    output_history: Annotated[
        bool,
        Option(
            "keep the tokens after each pass in `.history`.",
            default=False,
            check=Truth(),
            stored=False,
        ),
    ]


OPTIONS: dict[str, Option] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(GenerateOptions, include_extras=True).items()
}
BY_POSITION = 8  # options that may be given without their names
STORED = tuple(name for name, option in OPTIONS.items() if option.stored)
DEFAULTS: GenerateOptions = cast(
    GenerateOptions, {name: option.default for name, option in OPTIONS.items() if option.stored}
)


# --- what is made of it


def describe_options(indent: str = " " * 8) -> str:
    """The options as lines of an Args section, for docstrings."""
    lines = []
    for name, option in OPTIONS.items():
        default = "" if option.default is None else f" Default: {option.default!r}."
        text = f"{name}: {option.help}{default}"
        lines += textwrap.wrap(
            text,
            100,
            initial_indent=indent,
            subsequent_indent=f"{indent}    ",
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def option_parameters() -> list[inspect.Parameter]:
    """The options as keyword parameters, for `inspect.signature`."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if option.stored else option.default,
        )
        for name, option in OPTIONS.items()
    ]


def by_name(in_order: Sequence[Any], named: GenerateOptions) -> GenerateOptions:
    """Options that were given by position together with those given by name.

    Raises:
        InvalidTypeError: too many, or one that is given twice.
    """
    if len(in_order) > BY_POSITION:
        names = ", ".join(list(OPTIONS)[:BY_POSITION])
        raise InvalidTypeError(
            f"generate takes at most {BY_POSITION} options by position ({names}), got "
            f"{len(in_order)}; give the others by name"
        )
    given = dict(zip(OPTIONS, in_order, strict=False))
    if twice := sorted(given.keys() & named.keys()):
        raise InvalidTypeError(f"{twice[0]} is given twice, by position and by name")
    return cast(GenerateOptions, {**given, **named})


def unknown_option(name: str, what: str, known: Sequence[str] = tuple(OPTIONS)) -> InvalidTypeError:
    """The error for a name that is no option: what it is called here, or the nearest names.

    Args:
        name: the unknown name.
        what: how the message begins, such as "generate has no option".
        known: the names that there are.
    """
    for ours, option in OPTIONS.items():
        if name in option.other_names and ours in known:
            where = option.other_names[name]
            if where == "earlier versions":
                return InvalidTypeError(f"{what} {name!r}: it was renamed to {ours}")
            return InvalidTypeError(f"{what} {name!r}; {where}'s {name} is {ours} here")
    return InvalidTypeError(f"{what} {name!r}.{did_you_mean(name, known)}")
