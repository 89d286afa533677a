"""Randomness that belongs to the sequence: a counter-based generator keyed by seed, prompt, step
and position.

A value depends on nothing else, so a sequence draws the same numbers alone, in any batch, behind
any padding and on any device. The mixing function is splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
No global generator is touched, but where there is no seed: then one number from torch's is the
seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidTypeError, InvalidValueError

TOKEN, POSITION, REMASK, _PROMPT, _COPY, _INDEX = range(6)  # independent streams of one sequence


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    # int64 shifts keep the sign, a 64-bit word must not
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


class SequenceNoise:
    """Uniform numbers for a batch of sequences with int64 keys [B]."""

    def __init__(self, keys: torch.Tensor) -> None:
        self.keys = keys
        self._streams: dict[int, torch.Tensor] = {}

    def uniform(
        self, stream: int, step: int, row: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        """float64 in [0, 1), one for each pair of a row and a position counted from its sequence's
        first token.

        `row` and `position` are LongTensors that broadcast together.
        """
        if stream not in self._streams:
            self._streams[stream] = _mix(self.keys + _signed((stream + 1) * _GOLDEN))
        word = _mix(self._streams[stream] + _signed((step + 1) * _GOLDEN))
        return _shift(_mix(word[row] + (position + 1) * _GOLDEN), 11).double() * 2.0**-53


def plain_seed(seed: Any) -> Any:
    """Numbers of numpy and tensors as Python's, so that one seed for the batch is told from one
    per row.
    """
    return seed.tolist() if hasattr(seed, "tolist") else seed


def check_seed(seed: int | Sequence[int] | torch.Tensor | None, batch: int) -> list[int]:
    """Seeds as `batch` integers; None draws one number from torch's global generator.

    So `torch.manual_seed` repeats a run without a seed, as it does elsewhere.
    """
    if seed is None:
        return [int(torch.randint(2**63 - 1, (), device="cpu"))] * batch
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
    """A seed for each answer to each prompt of a long list, from nothing but `seed` and the
    prompt's index in the list.

    Returns len(indices) * copies integers of 64 bits, the copies of one prompt next to each other.
    """
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
        tokens: LongTensor [B, L], the prompt with its masks.
        own: bool [B, L], False on padding.
        distinct: give equal prompts with equal seeds different noise (a single seed for a batch):
            the first of them keeps the given seed, and so draws what it would draw alone; copy k
            gets one derived from that and k.
    """

    def __init__(
        self, given: list[int], tokens: torch.Tensor, own: torch.Tensor, distinct: bool
    ) -> None:
        self._given = given
        position = own.long().cumsum(1)
        words = _mix(_mix(tokens + _signed((_PROMPT + 1) * _GOLDEN)) + position * _GOLDEN)
        prompt = torch.where(own, words, 0).sum(1)
        self._seed = torch.tensor(
            [_signed(value) for value in given], dtype=torch.int64, device=tokens.device
        )
        keys = _mix(_mix(self._seed + _GOLDEN) + prompt)
        if distinct:
            copy = _copies(keys)
            derived = _shift(
                _mix(_mix(self._seed + _signed(_GOLDEN * (_COPY + 1))) + copy * _GOLDEN), 1
            )
            self._seed = torch.where(copy > 0, derived, self._seed)
            keys = _mix(_mix(self._seed + _GOLDEN) + prompt)
        self.noise = SequenceNoise(keys)

    def tolist(self) -> list[int]:
        """As a list that repeats the run when it is given as the seed; waits for the device."""
        return [
            a if _signed(a) == b else b
            for a, b in zip(self._given, self._seed.tolist(), strict=True)
        ]


def _copies(keys: torch.Tensor) -> torch.Tensor:
    """How many equal keys come before each."""
    order = torch.argsort(keys, stable=True)
    ranked = keys[order]
    new = torch.ones_like(ranked, dtype=torch.bool)
    new[1:] = ranked[1:] != ranked[:-1]
    index = torch.arange(len(keys), device=keys.device)
    start = torch.where(new, index, 0).cummax(0).values
    return torch.empty_like(index).scatter_(0, order, index - start)
