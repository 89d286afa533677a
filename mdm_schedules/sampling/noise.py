"""Randomness that belongs to the sequence: a function of seed, prompt, step and position.

A value depends on nothing else, so a sequence draws the same numbers alone, in any batch, behind
any padding and on any device. There is no state: each number is a hash of what it is for, made in
layers, each mixed by splitmix64 (Steele, Lea, Flood, OOPSLA 2014):

    seed + prompt -> key [B] -> stream (tokens, positions, ...) -> step -> position -> 53 bits

No global generator is touched, unless there is no seed: then one number from torch's is the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mdm_schedules.checks import check_int, plain_value
from mdm_schedules.errors import InvalidTypeError, InvalidValueError

# independent streams of one sequence; a new one comes last, or recorded seeds draw other tokens
TOKEN, POSITION, REMASK, _PROMPT, _COPY, _INDEX = range(6)


# ----- 64-bit words in int64 tensors, whose products wrap around as they should -----


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= (1 << 64) - 1
    # the upper half of the words are the negative numbers
    return value - (1 << 64) if value >= 1 << 63 else value


# splitmix64's increment and its two multipliers
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right, filling with zeros."""
    # int64 shifts keep the sign, a 64-bit word must not
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """splitmix64's output function: every bit of `x` changes half of the bits."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


# ----- Numbers -----


class SequenceNoise:
    """Uniform numbers for a batch of sequences with int64 keys [B]."""

    def __init__(self, keys: torch.Tensor) -> None:
        self.keys = keys
        self._streams: dict[int, torch.Tensor] = {}

    def uniform(
        self, stream: int, step: int, row: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        """float64 in [0, 1), one for each pair of a row and a position.

        Args:
            stream: what the numbers are for, such as TOKEN.
            step: numbers of different steps are independent.
            row: LongTensor, rows of the batch.
            position: LongTensor that broadcasts with it, counted from the sequence's own first
                token.
        """
        # a run asks for the same stream in each pass
        if stream not in self._streams:
            self._streams[stream] = _mix(self.keys + _signed((stream + 1) * _GOLDEN))
        word_B = _mix(self._streams[stream] + _signed((step + 1) * _GOLDEN))
        # the upper 53 bits, as many as a float64 holds
        return _shift(_mix(word_B[row] + (position + 1) * _GOLDEN), 11).double() * 2.0**-53


# ----- Seeds -----


def plain_seed(seed: Any) -> Any:
    """Numbers of numpy and tensors as Python's: an int is one seed for the batch, a list is not."""
    return plain_value("seed", seed)


def check_seed(seed: int | Sequence[int] | torch.Tensor | None, batch: int) -> list[int]:
    """Seeds as `batch` integers; None draws one number from torch's global generator.

    So `torch.manual_seed` repeats a run without a seed, as it does elsewhere.
    """
    if seed is None:
        # one for all rows: copies of a prompt get seeds derived from it
        return [int(torch.randint(2**63 - 1, (), device="cpu"))] * batch
    # a tensor or an array of one per row is a list from here on
    seed = plain_seed(seed)
    if isinstance(seed, str | bytes | float):
        raise InvalidTypeError(f"seed must be None, an int, or one int per row, got {seed!r}")
    if isinstance(seed, Sequence):
        if len(seed) != batch:
            raise InvalidValueError(
                f"seed must be one int, or one per row ({batch}), got {len(seed)} of them"
            )
        return [check_int("seed", value, -(2**63), 2**64 - 1) for value in seed]
    return [check_int("seed", seed, -(2**63), 2**64 - 1)] * batch


def derive_seeds(seed: int, indices: Sequence[int], copies: int = 1) -> list[int]:
    """A seed for each answer to each prompt of a long list, from its index alone.

    Args:
        seed: of the whole list.
        indices: the prompts' places in the list.
        copies: answers to each prompt.

    Returns:
        len(indices) * copies integers of 64 bits, the copies of one prompt next to each other.
    """
    # three layers: the seed with its stream, the index, the copy
    index = torch.tensor(indices, dtype=torch.int64)[:, None]
    copy = torch.arange(copies)[None]
    key = _mix(
        _mix(torch.tensor(_signed(seed + _GOLDEN)) + _signed((_INDEX + 1) * _GOLDEN))
        + index * _GOLDEN
    )
    return _mix(key + copy * _GOLDEN).flatten().tolist()  # type: ignore[no-any-return]


class RowSeeds:
    """The seed that each row really draws with, and the noise keyed by it and the row's own prompt.

    Args:
        given: one per row.
        tokens_BL: LongTensor, the prompt with its masks.
        attention_mask_BL: bool, False on padding.
        distinct: give equal prompts with equal seeds different noise (a single seed for a batch):
            the first of them keeps the given seed, and so draws what it would draw alone; copy k
            gets one derived from that and k.
    """

    def __init__(
        self,
        given: list[int],
        tokens_BL: torch.Tensor,
        attention_mask_BL: torch.Tensor,
        distinct: bool,
    ) -> None:
        self._given = given
        # the prompt's hash: a sum over its tokens and their positions, so that padding adds nothing
        position_BL = attention_mask_BL.long().cumsum(1)
        token_BL = _mix(tokens_BL + _signed((_PROMPT + 1) * _GOLDEN))
        word_BL = _mix(token_BL + position_BL * _GOLDEN)
        prompt_B = torch.where(attention_mask_BL, word_BL, 0).sum(1)
        self._seed_B = torch.tensor(
            [_signed(value) for value in given], dtype=torch.int64, device=tokens_BL.device
        )
        # the seed is mixed before the prompt joins it, so that the two cannot cancel out
        key_B = _mix(_mix(self._seed_B + _GOLDEN) + prompt_B)
        # equal keys are equal prompts with equal seeds: all but the first get seeds of their own
        if distinct:
            copy_B = _copies(key_B)
            base_B = _mix(self._seed_B + _signed(_GOLDEN * (_COPY + 1)))
            derived_B = _shift(_mix(base_B + copy_B * _GOLDEN), 1)
            self._seed_B = torch.where(copy_B > 0, derived_B, self._seed_B)
            key_B = _mix(_mix(self._seed_B + _GOLDEN) + prompt_B)
        self.noise = SequenceNoise(key_B)

    def tolist(self) -> list[int]:
        """As a list that repeats the run when it is given as the seed; waits for the device."""
        # an unsigned seed comes back as it was given
        return [
            seed if _signed(seed) == used else used
            for seed, used in zip(self._given, self._seed_B.tolist(), strict=True)
        ]


def _copies(key_B: torch.Tensor) -> torch.Tensor:
    """How many equal keys come before each."""
    # equal keys stand together once sorted; each one's place less that of the first of its kind
    order_B = torch.argsort(key_B, stable=True)
    sorted_B = key_B[order_B]
    new_B = torch.ones_like(sorted_B, dtype=torch.bool)
    new_B[1:] = sorted_B[1:] != sorted_B[:-1]
    place_B = torch.arange(len(key_B), device=key_B.device)
    first_B = torch.where(new_B, place_B, 0).cummax(0).values
    return torch.empty_like(place_B).scatter_(0, order_B, place_B - first_B)
