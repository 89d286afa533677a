"""Orders that look at the place in the block: `dilated` and `pc`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch

from mdm_schedules.checks import check_int, check_real, shown
from mdm_schedules.errors import FormatError, InvalidTypeError, InvalidValueError
from mdm_schedules.files import local_path, read_bytes
from mdm_schedules.sampling.noise import SequenceNoise
from mdm_schedules.sampling.policies import ConfidencePolicy, OrderPolicy
from mdm_schedules.sampling.where import Where

MAX_FREQUENCY_BYTES = 64 << 20
TENSOR = "frequencies"


# ----- Dilated -----


@dataclass(frozen=True)
class Dilated(OrderPolicy):
    """Reveal positions far apart in the block together: first those B/2 apart, then B/4, and so on.

    In round t of a block of B positions the step is s = floor(B / base^t), and its positions are
    those divisible by s that no earlier round had (arXiv 2506.19037, eq. 8 and 9). The plan decides
    how many positions a pass takes; `plan` gives the paper's. Within a round, too, positions far
    apart come first.

    Attributes:
        base: an integer >= 2.
    """

    base: int = 2
    name: ClassVar[str] = "dilated"

    def __post_init__(self) -> None:
        check_int("base", self.base, 2, example="dilated(base=2)")

    def score_at(self, where: Where, noise: SequenceNoise) -> torch.Tensor:
        """Minus the round, less a fraction below 1 for the order within it."""
        offset, length = torch.broadcast_tensors(where.offset, where.length)
        level = torch.full_like(offset, -1)
        place = torch.zeros_like(offset)
        for number, power in enumerate(_powers(self.base, where.width)):
            step = (length // power).clamp(min=1)
            new = (level < 0) & (offset % step == 0)
            level = torch.where(new, number, level)
            place = torch.where(new, offset // step, place)
        return -(level.double() + _radical_inverse(place, self.base, where.width))

    def plan(self, length: int) -> list[int]:
        """The paper's plan: one pass for each round of a block of `length` positions."""
        length = check_int("length", length, 1)
        done: set[int] = set()
        plan = []
        for power in _powers(self.base, length):
            new = {*range(0, length, max(1, length // power))} - done
            plan += [len(new)] if new else []
            done |= new
        return plan


def _powers(base: int, length: int) -> list[int]:
    """base, base^2, ... up to the first that is at least `length`."""
    powers = [base]
    while powers[-1] < length:
        powers.append(powers[-1] * base)
    return powers


def _radical_inverse(number: torch.Tensor, base: int, width: int) -> torch.Tensor:
    """The digits of each number behind the point in reverse: 1 of base 2 is .1, 2 is .01."""
    value = torch.zeros(number.shape, dtype=torch.float64, device=number.device)
    # one digit more than the width has, so that the sum stays below 1
    for power in _powers(base, width + 1):
        value += (number % base).double() / power
        number = number // base
    return value


# ----- Position-aware calibrated confidence -----


@dataclass(frozen=True, eq=False)
class PositionCalibrated(ConfidencePolicy):
    """Reveal early positions first, and tokens that are likely here but rare elsewhere.

    score = exp(-decay * place) * min(-p log f, clip), with the place in the block counted from its
    first mask, the drawn token's probability p, and its background frequency f (PC-Sampler, arXiv
    2508.13021).

    Attributes:
        decay: >= 0; 0 forgets the place, 1 is nearly left to right.
        clip: > 0, in nats.
        background: how frequent each token is anywhere: numbers [V] (a tensor or a sequence), or a
            safetensors file with such a tensor named "frequencies"; see `token_frequencies`. None
            takes each row's own prompt, so that what is frequent there counts less.
    """

    decay: float = 0.25
    clip: float = 10.0
    background: Any = None
    name: ClassVar[str] = "pc"
    token_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("decay", self.decay, 0)
        check_real("clip", self.clip, 0, low_open=True)
        if self.background is not None and not isinstance(self.background, str | os.PathLike):
            object.__setattr__(self, "background", _checked(self.background, "background"))

    def token_score(
        self, probability: torch.Tensor, tokens: torch.Tensor, where: Where
    ) -> torch.Tensor:
        """See the class."""
        if self.background is None:
            frequency = _in_prompt(tokens, where)
        else:
            table = self.background
            if not isinstance(table, torch.Tensor):
                table = _read(str(local_path(table)))
            frequency = table.to(tokens.device)[tokens.clamp(max=len(table) - 1)]
            frequency = torch.where(tokens < len(table), frequency, 0)
        # as in the paper's code, so that an unseen token has a finite weight
        surprise = -(frequency + 1e-9).log()
        weight = torch.exp(-self.decay * where.offset.double())
        # what underflowed is a logarithm here, and nothing is less than it
        certain = (probability.clamp(min=0).double() * surprise).clamp(max=self.clip)
        return (weight * certain).to(probability.dtype)

    def __repr__(self) -> str:
        parts = [f"decay={self.decay!r}", f"clip={self.clip!r}"]
        if isinstance(self.background, torch.Tensor):
            parts.append(f"background=<{len(self.background)} frequencies>")
        elif self.background is not None:
            parts.append(f"background={str(self.background)!r}")
        return f"pc({', '.join(parts)})"


def token_frequencies(prompts: Sequence[Sequence[int]], vocab_size: int) -> torch.Tensor:
    """How frequent each token is in these prompts, for `background` of `pc`.

    Args:
        prompts: token ids, a list for each prompt; any text of the task will do.
        vocab_size: V.

    Returns:
        float64 [V], which sums to 1, or a little more: a token that never occurs counts as if it
        had occurred once.

    Raises:
        InvalidTypeError, InvalidValueError: no token at all, or ids that are none.
    """
    size = check_int("vocab_size", vocab_size, 1)
    try:
        ids = torch.cat([torch.as_tensor(prompt, dtype=torch.long).flatten() for prompt in prompts])
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(
            "prompts must be lists of token ids, such as tokenizer(texts).input_ids, got "
            f"{shown(prompts)}"
        ) from None
    if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= size:
        raise InvalidValueError(
            f"prompts must hold token ids in [0, {size - 1}], at least one, got "
            f"{'none' if not len(ids) else f'{int(ids.min())} to {int(ids.max())}'}"
        )
    return ids.bincount(minlength=size).clamp(min=1).double() / len(ids)


def _in_prompt(tokens: torch.Tensor, where: Where) -> torch.Tensor:
    """How frequent each token [R] is in the prompt of its own row, counted at least once."""
    prompt = where.prompt[where.row]
    count = ((where.tokens[where.row] == tokens[:, None]) & prompt).sum(1)
    return count.clamp(min=1).double() / prompt.sum(1).clamp(min=1)


def _checked(values: Any, what: str) -> torch.Tensor:
    """Frequencies as float64 [V]."""
    try:
        table = torch.as_tensor(values).detach().double()
    except (TypeError, ValueError, RuntimeError):
        table = torch.zeros(0, 0)
    if table.ndim != 1 or not len(table):
        raise InvalidTypeError(
            f"{what} must be frequencies [vocabulary] or a safetensors file with such a tensor "
            f"named {TENSOR!r}, got {shown(values)}; token_frequencies(prompts, vocab_size) "
            "makes them"
        )
    if not bool((table.isfinite() & (table >= 0)).all()) or float(table.sum()) <= 0:
        raise InvalidValueError(f"{what} must hold finite frequencies >= 0, not all of them 0")
    return table / table.sum() if float(table.max()) > 1 else table


@lru_cache(maxsize=4)
def _read(path: str) -> torch.Tensor:
    """The frequencies in a file; the run's trial before the first pass reads it."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(read_bytes(local_path(path), MAX_FREQUENCY_BYTES))
    except SafetensorError as error:
        raise FormatError(f"{path} is not a whole safetensors file: {error}") from None
    if TENSOR not in tensors:
        raise FormatError(f"{path} has no tensor {TENSOR!r}, it has {', '.join(sorted(tensors))}")
    return _checked(tensors[TENSOR], path)
