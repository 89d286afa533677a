"""A run of the sampler as the page plays it: the text, and the pass that revealed each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.lookup import schedule_for_steps
from mdm_schedules.sampling import GenerationOutput

MAX_TOKENS = 4096  # of a recorded sequence, so that the page stays small


@dataclass(frozen=True)
class Run:
    """One sequence under one schedule.

    Attributes:
        schedule: its spec.
        passes: forward passes of the run.
        pieces: the text of each token [L].
        when: the pass from 1 that revealed each token [L], for good where it was masked again; 0
            where the prompt gave it, -1 on padding.
    """

    schedule: str
    passes: int
    pieces: tuple[str, ...]
    when: tuple[int, ...]


@dataclass(frozen=True)
class Recording:
    """Runs from one prompt, played side by side.

    Attributes:
        title: in the list of recordings.
        about: what was run, in a sentence.
        runs: one for each schedule.
        columns: of a grid; 0 for running text.
        units: groups of cells in which no text may stand twice.
    """

    title: str
    about: str
    runs: tuple[Run, ...]
    columns: int = 0
    units: tuple[tuple[int, ...], ...] = ()

    def conflicts(self, run: Run, number: int) -> set[int]:
        """The cells after pass `number` whose text stands twice in a unit."""
        wrong: set[int] = set()
        for unit in self.units:
            seen: dict[str, int] = {}
            for cell in unit:
                if run.when[cell] > number:
                    continue
                if run.pieces[cell] in seen:
                    wrong |= {cell, seen[run.pieces[cell]]}
                seen[run.pieces[cell]] = cell
        return wrong


def run_of(out: GenerationOutput, schedule: str, tokenizer: Any, row: int = 0) -> Run:
    """What the page needs of row `row` of an output."""
    tokens, when = out.sequences[row].tolist(), out.revealed_in[row].tolist()
    return Run(schedule, int(out.nfe), tuple(_pieces(tokens, tokenizer)), tuple(when))


def _pieces(tokens: list[int], tokenizer: Any) -> list[str]:
    """The text of each token, so that all pieces together are the text of the sequence.

    A token's text may depend on those before it (spaces, characters of several tokens): a piece is
    what the token adds to the text so far.
    """
    pieces, done = [], ""
    for end in range(1, len(tokens) + 1):
        text = str(tokenizer.decode(tokens[:end], clean_up_tokenization_spaces=False))
        if text.endswith("\ufffd") and end < len(tokens):
            pieces.append("")  # half a character: the next token has it
            continue
        pieces.append(text[len(done) :])
        done = text
    return pieces


def record(
    model: Any,
    tokenizer: Any,
    prompt: str,
    schedules: Sequence[Any] = ("linear", "sine"),
    *,
    steps: int | None = None,
    seed: int = 0,
    add_special_tokens: bool = False,
    **options: Any,
) -> Recording:
    """Write the answer to `prompt` once under each schedule, and keep the passes.

    Args:
        model: what `AutoModelForMaskedDiffusion.from_pretrained` loaded.
        tokenizer: the model's.
        prompt: text; mask tokens in it are filled.
        schedules: schedules or their specs.
        steps: forward passes; None is one a token.
        seed: of the noise, the same for every schedule.
        add_special_tokens: let the tokenizer add its own.
        **options: of `generate`, as max_new_tokens or remasking.

    Raises:
        InvalidTypeError, InvalidValueError: no schedules, a sequence of more than 4,096 tokens, or
            a wrong option (before the first pass).
    """
    if not hasattr(tokenizer, "decode"):
        raise InvalidTypeError(
            f"record needs the model's tokenizer, got {type(tokenizer).__name__}: "
            "record(model, AutoTokenizer.from_pretrained(path), 'a prompt', max_new_tokens=64)"
        )
    if not schedules:
        raise InvalidValueError(
            "record needs a schedule to run, got none; for example schedules=['linear', 'sine']"
        )
    chosen = [schedule_for_steps(schedule, steps) for schedule in schedules]
    ids = tokenizer(
        prompt, return_tensors="pt", add_special_tokens=add_special_tokens
    ).input_ids.to(getattr(model, "device", "cpu"))
    new = options.get("max_new_tokens") or 0
    check_int("tokens of prompt and answer", ids.shape[1] + new, 1, MAX_TOKENS)
    runs = []
    for schedule in chosen:
        out = model.generate(
            ids, schedule=schedule, steps=steps, seed=seed, tokenizer=tokenizer, **options
        )
        runs.append(run_of(out, schedule.spec, tokenizer))
    told = "".join(f", {name} {value}" for name, value in sorted(options.items()))
    about = f"{_name(model)}, {runs[0].passes} passes, seed {seed}{told}"
    return Recording(prompt.strip().splitlines()[0][:60] if prompt.strip() else "", about, (*runs,))


def _name(model: Any) -> str:
    path = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return path.rstrip("/").rpartition("/")[2]
