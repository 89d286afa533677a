"""The options of `generate`, each stated once: type, default, constraint, help, other names.

`GenerateOptions` is the table. Everything that takes options reads it: the signature, docstring and
checks of `generate`, the generation config, the pipeline, distributed jobs, lm-eval, and the
command line's flags and help. A new option is one entry here, and code where it has its effect.
"""

from __future__ import annotations

import os
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
from mdm_schedules.sampling.elsewhere import NO_MEANING, PROMPT_NAMES
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


def _names(text: str) -> dict[str, str]:
    """'gen_length LLaDA, max_tokens vLLM' as a dict."""
    return dict(one.split(" ", 1) for one in text.split(", "))


class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of `generate`; None is the config's value, else the default."""

    schedule: Annotated[
        str | os.PathLike[str] | Schedule | None,
        Option(
            "how many tokens each pass reveals: name, spec, folder, Hub id, preset or Schedule; "
            "`steps` chooses where there are several. By default the model's own, else linear.",
            check=Checked(schedule_text),
            other_names=_names(
                "noise_schedule MMaDA, scheduler diffusers, mask_schedule MaskGIT, "
                "masking_schedule diffusers"
            ),
        ),
    ]
    steps: Annotated[
        int | None,
        Option(
            "forward passes in all, shared among blocks; by default one per token.",
            check=Whole(1),
            other_names=_names(
                "num_inference_steps diffusers, diffusion_steps Dream, num_steps MDLM, "
                "num_sampling_steps MDLM, denoising_steps SDAR, steps_per_block LLaDA2, nfe papers"
            ),
        ),
    ]
    max_new_tokens: Annotated[
        int | None,
        Option(
            "masks appended to the prompt; by default none to a prompt that holds masks.",
            check=Whole(0),
            other_names=_names(
                "gen_length LLaDA, max_gen_toks lm-eval, max_tokens vLLM, max_completion_tokens "
                "OpenAI, seq_len MMaDA, max_gen_len Llama, answer_length papers"
            ),
        ),
    ]
    block_length: Annotated[
        int | None,
        Option(
            "write blocks of so many tokens from left to right, the last one perhaps shorter; by "
            "default all at once.",
            check=Whole(1),
            other_names=_names("block_size dLLM, blocksize SDAR, block_len dInfer"),
        ),
    ]
    remasking: Annotated[
        PolicyName | str | ConfidencePolicy | OrderPolicy | None,
        Option(
            "which positions are revealed first: low_confidence, margin, entropy, random, "
            "ancestral, left_to_right, or a policy object.",
            default="low_confidence",
            check=Checked(remasking_text),
            other_names=_names(
                "alg Dream, remasking_strategy SDAR, policy papers, order papers, unmasking papers"
            ),
        ),
    ]
    temperature: Annotated[
        float | None,
        Option(
            "0 takes the most probable token. Confidence is read before it is applied.",
            default=0.0,
            check=Real(0),
            other_names=_names("temp LLaDA, sampling_temperature MMaDA"),
        ),
    ]
    mask_token_id: Annotated[
        int | None,
        Option(
            "by default that of the model's config.",
            check=Whole(0),
            other_names=_names("mask_id LLaDA, mask_token tokenizers, mask_index MDLM"),
        ),
    ]
    seed: Annotated[
        int | Sequence[int] | torch.Tensor | None,
        Option(
            "None, an int, or one int per returned row. A sequence draws the same tokens whatever "
            "the batch around it. None draws one number from torch's global generator, so that "
            "torch.manual_seed repeats the run; else no global generator is touched.",
            other_names=_names(
                "generator diffusers, random_seed lm-eval, manual_seed torch, random_state scikit- "
                "learn"
            ),
        ),
    ]
    plan: Annotated[
        Any,
        Option(
            "tokens per step in place of schedule and steps, [steps] or [B, steps], summing to the "
            "masks of the fullest block; blocks with fewer follow it until they are full. A plan "
            "given here overrides a schedule and steps kept in a config, and either of these a "
            "plan kept there.",
        ),
    ]
    top_k: Annotated[
        int | None,
        Option(
            "draw among so many of the most probable tokens; 0 among all. It needs a temperature.",
            check=Whole(0),
            other_names=_names("topk Fast-dLLM"),
        ),
    ]
    top_p: Annotated[
        float | None,
        Option(
            "draw among the most probable tokens that together have this probability, in (0, 1]. "
            "It needs a temperature.",
            check=Real(0, 1, low_open=True),
            other_names=_names("topp Fast-dLLM, nucleus_p MDLM"),
        ),
    ]
    suppress_tokens: Annotated[
        Sequence[int] | None,
        Option(
            "token ids that are never drawn.",
            check=TokenIds(),
            other_names=_names(
                "bad_words_ids transformers, forbidden_tokens ESM, banned_tokens vLLM"
            ),
        ),
    ]
    suppress_special_tokens: Annotated[
        bool | None,
        Option(
            "True keeps the tokenizer's special tokens out of answers, but an `eos_token_id` that "
            "ends them; it needs the tokenizer.",
            check=Truth(),
            other_names=_names("ignore_special_tokens ESM, no_special_tokens ESM"),
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
            other_names=_names(
                "confidence_threshold dInfer, conf_threshold d3LLM, dynamic_threshold SDAR"
            ),
        ),
    ]
    entropy_bound: Annotated[
        float | None,
        Option(
            "short for commit=entropy_bound(...): with the entropy policy, each pass also reveals "
            "the surest tokens up to this joint entropy, in nats.",
            check=Real(0),
            other_names=_names("eb_threshold SDAR, gamma EB-Sampler"),
        ),
    ]
    remask_fraction: Annotated[
        float | None,
        Option(
            "share of revealed tokens that each pass masks again (ReMDM), in [0, 1]; the passes "
            "stay as planned.",
            default=0.0,
            check=Real(0, 1),
            other_names=_names("remask earlier versions, remask_ratio ReMDM, eta_cap ReMDM"),
        ),
    ]
    cfg_scale: Annotated[
        float | None,
        Option(
            "classifier-free guidance: u + (cfg_scale + 1)(c - u) of the logits c with and u "
            "without the prompt. Each pass then runs the model on twice the batch.",
            default=0.0,
            check=Real(0),
            other_names=_names(
                "cfg MMaDA, guidance_scale diffusers, guidance MMaDA, unsupervised_cfg LLaDA"
            ),
        ),
    ]
    eos_token_id: Annotated[
        int | Sequence[int] | torch.Tensor | None,
        Option(
            "end a row at this token (or these) in its answer once all before it is filled. By "
            "default rows go on to the end, as the models' own samplers do.",
            check=TokenIds(),
            other_names=_names(
                "stop_token_ids vLLM, eos_id LLaDA2, eos_early_stop LLaDA2, early_stop dInfer, "
                "eos_token tokenizers"
            ),
        ),
    ]
    pad_token_id: Annotated[
        int | None,
        Option("what follows the end; by default the first `eos_token_id`.", check=Whole(0)),
    ]
    num_return_sequences: Annotated[
        int | None,
        Option(
            "answers per prompt, next to each other.",
            default=1,
            check=Whole(1, 1 << 20),
            other_names=_names(
                "n vLLM, num_samples MDLM, num_images_per_prompt diffusers, num_return transformers"
            ),
        ),
    ]
    # --- of one call only
    logits_processor: Annotated[
        LogitsProcessor | Sequence[Any] | None,
        Option(
            "(input_ids [R, L], scores [R, V]) -> scores, or a LogitsProcessorList, before the "
            "draw; R are the positions asked for, each with its whole sequence.",
            stored=False,
            other_names=_names("logits_processors vLLM, generation_logits_hook_func Dream"),
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
    tokenizer: Annotated[
        Any,
        Option(
            "of the model: encodes prompts that are text, and ids that it has no token for are "
            "never drawn.",
            stored=False,
            other_names=_names("processor transformers, processing_class transformers"),
        ),
    ]
    streamer: Annotated[
        Any,
        Option(
            "a transformers TextDiffusionStreamer or TextStreamer; one sequence only.",
            stored=False,
            other_names=_names("stream OpenAI"),
        ),
    ]
    callback: Annotated[
        Callable[[StepInfo], object] | None,
        Option(
            "called with a `StepInfo` after each pass.",
            stored=False,
            other_names=_names(
                "callback_on_step_end diffusers, callbacks Trainer, step_callback diffusers"
            ),
        ),
    ]
    progress: Annotated[
        bool,
        Option(
            "show a progress bar.",
            default=False,
            check=Truth(),
            stored=False,
            other_names=_names("verbose LLaDA, use_tqdm vLLM, show_progress dLLM"),
        ),
    ]
    output_history: Annotated[
        bool,
        Option(
            "keep the tokens after each pass in `.history`.",
            default=False,
            check=Truth(),
            stored=False,
            other_names=_names("return_history dLLM, return_dict dLLM, trace papers"),
        ),
    ]


OPTIONS: dict[str, Option] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(GenerateOptions, include_extras=True).items()
}
BY_POSITION = 8  # options that may be given without their names
# what other samplers call it -> our option, and where
_OTHER_NAMES = {
    alias: (name, where)
    for name, option in OPTIONS.items()
    for alias, where in option.other_names.items()
}
STORED = tuple(name for name, option in OPTIONS.items() if option.stored)
DEFAULTS: GenerateOptions = cast(
    GenerateOptions, {name: option.default for name, option in OPTIONS.items() if option.stored}
)


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
    other = {**dict.fromkeys(PROMPT_NAMES, ("input_ids", "other samplers")), **_OTHER_NAMES}
    ours, where = other.get(name, ("", ""))
    if ours and (ours in known or ours == "input_ids"):
        if where == "earlier versions":
            return InvalidTypeError(f"{what} {name!r}: it was renamed to {ours}")
        return InvalidTypeError(f"{what} {name!r}; {where}'s {name} is {ours} here")
    if name in NO_MEANING and name not in known:
        where, why = NO_MEANING[name]
        return InvalidTypeError(f"{what} {name!r}, which is {where}'s: {why}")
    return InvalidTypeError(f"{what} {name!r}.{did_you_mean(name, known)}")
