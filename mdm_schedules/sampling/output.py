"""What a run of the sampler returns, and what it reports to a callback after each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from mdm_schedules.checks import did_you_mean
from mdm_schedules.errors import InvalidTypeError, UnknownNameError
from mdm_schedules.models.cache import CacheUse
from mdm_schedules.sampling.coloured import coloured

GIVEN, PADDING = 0, -1  # in `revealed_in`, beside the numbers of passes
_SHOWN = 8  # rows that a notebook shows


@dataclass(frozen=True)
class StepInfo:
    """The state after one forward pass.

    Attributes:
        step: passes done so far, from 1.
        total: passes planned.
        tokens: LongTensor [B, L], a copy; masked positions hold the mask token.
        revealed: bool [B, L], the positions that this pass revealed.
    """

    step: int
    total: int
    tokens: torch.Tensor
    revealed: torch.Tensor


@dataclass(frozen=True, eq=False, repr=False)
class GenerationOutput(tuple[torch.Tensor, ...]):
    """The finished sequences and what they cost.

    It is used as its sequences are: `tokenizer.batch_decode(out)`, `out[0]`, `out[:, n:]`,
    `len(out)`, `out.shape` and a loop over rows work, and so does `out["sequences"]`. A notebook
    shows the text, each token coloured by the pass that revealed it.

    Attributes:
        sequences: LongTensor [B, L], the prompt and the answer; holds no mask token that was to be
            filled.
        nfe: forward passes of the model.
        nfe_per_row: LongTensor [B], passes in which the row took part.
        plan: LongTensor [B, nfe], tokens that each pass revealed, less those it masked again.
        seeds: the seed that each row drew with. Given as `seed`, the list repeats the run, and a
            row's own repeats that row alone.
        drawn: LongTensor [B, nfe], tokens that each pass drew jointly; more than `plan` where
            some were masked again, and in passes that only edit.
        edited: LongTensor [B], tokens that were replaced by others (`edit_threshold`).
        revealed_in: IntTensor [B, L], the pass from 1 that revealed or last edited each token; 0
            where the prompt gave it, -1 on padding and after the end of the sequence.
        prompt_length: columns of `sequences` that are the prompt, so that `sequences[:,
            prompt_length:]` is the answer.
        eos_token_ids: the tokens that ended a row.
        cache: what was kept between passes, its size, and how much the passes computed; None where
            every pass computed everything.
        history: token states [B, L] after each pass, if asked for.
        tokenizer: as `generate` was given it, for `texts` and notebooks.
    """

    sequences: torch.Tensor
    nfe: int
    nfe_per_row: torch.Tensor
    plan: torch.Tensor
    seeds: list[int]
    drawn: torch.Tensor
    revealed_in: torch.Tensor
    edited: torch.Tensor
    prompt_length: int = 0
    eos_token_ids: tuple[int, ...] = ()
    history: list[torch.Tensor] = field(default_factory=list)
    cache: CacheUse | None = None
    tokenizer: Any = None

    # --- as the tensor of its sequences; a tuple of its rows, since tokenizers decode only what is
    # a tensor, a list or a tuple

    def __new__(cls, sequences: torch.Tensor, *rest: Any, **fields: Any) -> GenerationOutput:
        return super().__new__(cls, sequences.unbind(0))

    def __getnewargs__(self) -> tuple[torch.Tensor]:  # type: ignore[override]
        return (self.sequences,)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __getitem__(self, key: Any) -> Any:  # type: ignore[override]
        """A field by its name, else the part of `sequences` that `key` names."""
        if not isinstance(key, str):
            return self.sequences[key]
        if key not in self.__dataclass_fields__:
            raise UnknownNameError(
                f"the output has no {key!r}.{did_you_mean(key, self.__dataclass_fields__)}"
            )
        return getattr(self, key)

    @property
    def shape(self) -> torch.Size:
        """[B, L]."""
        return self.sequences.shape

    def tolist(self) -> list[list[int]]:
        """The sequences as lists of token ids."""
        return self.sequences.tolist()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(torch.Tensor, name):
            raise AttributeError(
                f"the output has no {name!r}; its tensor has: out.sequences.{name}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- as text

    def texts(self, tokenizer: Any = None, skip_special_tokens: bool = True) -> list[str]:
        """The answers alone, each up to its end-of-sequence token.

        Where only masks inside the prompts were filled, the whole sequences without padding.

        Args:
            tokenizer: of the model; None is the one that `generate` was given.
            skip_special_tokens: leave out special tokens.

        Raises:
            InvalidTypeError: no tokenizer.
        """
        tokenizer = self.tokenizer if tokenizer is None else tokenizer
        if not hasattr(tokenizer, "decode"):
            raise InvalidTypeError(
                f"texts needs the model's tokenizer, got {type(tokenizer).__name__}: write "
                "out.texts(tokenizer), or generate(..., tokenizer=tokenizer)"
            )
        return [
            tokenizer.decode(row, skip_special_tokens=skip_special_tokens)
            for row in self._answers(getattr(tokenizer, "eos_token_id", None))
        ]

    def _answers(self, eos_token_id: int | None) -> list[list[int]]:
        infilled = self.prompt_length == self.shape[1]
        ends = {*self.eos_token_ids, *([] if eos_token_id is None else [eos_token_id])}
        answers = []
        for row, passes in zip(self.tolist(), self.revealed_in.tolist(), strict=True):
            if infilled:
                answers.append(
                    [token for token, one in zip(row, passes, strict=True) if one != PADDING]
                )
                continue
            row = row[self.prompt_length :]
            end = next((place for place, token in enumerate(row) if token in ends), len(row))
            answers.append(row[:end])
        return answers

    def __repr__(self) -> str:
        rows, length = self.shape
        word = "pass" if self.nfe == 1 else "passes"
        return f"GenerationOutput(sequences [{rows}, {length}], {self.nfe} {word})"

    def _repr_html_(self) -> str:
        rows = zip(self.tolist()[:_SHOWN], self.revealed_in.tolist()[:_SHOWN], strict=True)
        return coloured(repr(self), rows, self.nfe, self.tokenizer, len(self) - _SHOWN)
