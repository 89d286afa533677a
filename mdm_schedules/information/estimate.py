"""Nats per hidden token at chosen reveal counts: the forward passes behind `estimate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mdm_schedules.checks import check_int, shown
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.information.calibration import Calibration
from mdm_schedules.information.data import Data
from mdm_schedules.information.nats import Nats, hidden_nats
from mdm_schedules.models import Denoiser, ModelDenoiser, as_denoiser, evaluating

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

METHODS = ("auto", "entropy", "cross_entropy")
DEFAULT_COUNTS = 64
FEW = 8  # with fewer sequences, standard errors are unreliable
FEW_NATS = 5


@dataclass(frozen=True)
class Measurement:
    """How a profile was estimated.

    Attributes:
        counts: numbers of revealed tokens that were measured.
        means, standard_errors: entropy or cross-entropy (see `method`) per hidden token in nats at
            each count, over sequences, before any fit. The errors are estimates themselves: with
            fewer than 8 sequences, or a model that is almost always certain, they are too small,
            and `estimate` warns.
        passes: sequences passed forward (a batch of B counts B).
        sequences: number of sequences.
        method: "entropy" or "cross_entropy", whichever the profile was made from.
        seed: as given to `estimate`.
        curve: the kind of curve chosen: beta_mixture, isotonic, convex or beta.
        held_out: for each kind, the cost of its plans on sequences held out from its fit (1 is the
            mean over kinds).
        calibration: entropy beside cross-entropy, and where they differ; None if the profile is
            from a file that does not have it, or if the model gives a true token probability 0.
    """

    counts: tuple[int, ...]
    means: tuple[float, ...]
    standard_errors: tuple[float, ...]
    passes: int
    sequences: int
    method: str
    seed: int
    curve: str
    held_out: tuple[tuple[str, float], ...]
    calibration: Calibration | None = None


class Readings(NamedTuple):
    """Means over the hidden tokens of a sequence, float64 [S, C] each, and the passes they took.

    Attributes:
        entropy, cross_entropy: in nats.
        variance: of the cross-entropy if the model were right, in nats^2.
        passes: sequences passed forward.
    """

    entropy: Array
    cross_entropy: Array
    variance: Array
    passes: int


def choose_counts(number: int, n: int, counts: Any, passes: Any) -> tuple[Integers, int]:
    """Reveal counts, and subsets per sequence and count, within the budget."""
    if passes is not None:
        passes = check_int("passes", passes, 1)
    if counts is None:
        affordable = DEFAULT_COUNTS if passes is None else min(DEFAULT_COUNTS, passes // number)
        if affordable < min(2, n):
            raise InvalidValueError(
                f"{number} sequences need at least {min(2, n) * number} passes, got {passes}"
            )
        chosen = spread_counts(n, affordable)
    else:
        given = counts if isinstance(counts, Iterable) else [counts]
        chosen = np.array([check_int("counts", x, 0, n - 1) for x in given], dtype=np.int64)
        if not len(chosen) or (np.diff(chosen) <= 0).any() or chosen[0] != 0 or chosen[-1] != n - 1:
            raise InvalidValueError(
                f"counts must increase from 0 to {n - 1}, tokens less one, got {shown(counts)}"
            )
        if passes is not None and passes < number * len(chosen):
            raise InvalidValueError(
                f"{len(chosen)} counts of {number} sequences need {number * len(chosen)} passes, "
                f"got {passes}"
            )
    return chosen, 1 if passes is None else max(1, passes // (number * len(chosen)))


def spread_counts(n: int, how_many: int) -> Integers:
    """Reveal counts from 0 to n - 1, denser towards both ends; all of them if they fit.

    Profiles bend most at the ends.
    """
    if how_many >= n:
        return np.arange(n, dtype=np.int64)
    places = np.rint((n - 1) * np.sin(np.linspace(0, np.pi / 2, how_many)) ** 2).astype(np.int64)
    # Rounding may have merged neighbours; push them apart, then back from the end.
    index = np.arange(how_many)
    places = np.maximum.accumulate(places - index) + index
    counts: Integers = np.minimum(places, n - how_many + index)
    return counts


def measure(
    model: Any,
    groups: Sequence[Data],
    counts: Integers,
    num_tokens: int,
    rounds: int,
    seed: int,
    batch_size: int,
    progress: bool,
) -> Readings:
    """Read off the logits what random subsets of each sequence leave open.

    Rows are sequences and columns are counts. Each round draws one random subset per sequence and
    count, from one generator; the batch size does not change the draw. A sequence of another number
    of tokens than `num_tokens` is measured at the same shares of them.
    """
    from tqdm import tqdm

    number = sum(len(data.index) for data in groups)
    sums = np.zeros((3, number, len(counts)))
    # Drawn on the host, so that every device measures the same subsets.
    draw = np.random.default_rng(seed)
    spent, denoiser = 0, as_denoiser(model)
    total = sum(len(_jobs(data, counts, num_tokens, rounds)[0]) for data in groups)
    with (
        tqdm(total=total, unit="pass", desc="information profile", disable=not progress) as bar,
        evaluating(model),
    ):
        for data in groups:
            jobs, own = _jobs(data, counts, num_tokens, rounds)
            rows = np.array(data.index)
            if not data.has_prompt:
                blind = np.flatnonzero(own == 0)
                draw.random((1, data.num_tokens))  # a pass like the others: it takes its draw
                nats = _blind(denoiser, data)
                means = np.stack([one.reshape(len(rows), -1).mean(1) for one in nats])
                means[2] /= data.num_tokens  # the variance of a mean
                sums[:, rows[:, None], blind] = rounds * means[:, :, None]
                spent += 1
            for begin in range(0, len(jobs), batch_size):
                part = jobs[begin : begin + batch_size]
                hide = draw.random((len(part), data.num_tokens)).argsort(1)
                hidden = hide >= own[part[:, 1]][:, None]
                nats = _read(denoiser, data, part[:, 0], torch.from_numpy(hidden))
                owner, many = hidden.nonzero()[0], hidden.sum(1)
                for place, one in enumerate(nats):
                    means = np.bincount(owner, weights=one) / many
                    np.add.at(
                        sums[place],
                        (rows[part[:, 0]], part[:, 1]),
                        means / many if place == 2 else means,
                    )
                spent += len(part)
                bar.update(len(part))
    cross, entropy, variance = sums / rounds
    return Readings(entropy, cross, variance / rounds, spent)


def _jobs(data: Data, counts: Integers, num_tokens: int, rounds: int) -> tuple[Integers, Integers]:
    """(row, column) of each pass [J, 2], and the group's own reveal counts [C]."""
    own = np.rint(counts * ((data.num_tokens - 1) / max(num_tokens - 1, 1))).astype(np.int64)
    # With everything hidden and no prompt, all sequences look the same: `_blind` does them at once.
    columns = [c for c in range(len(counts)) if own[c] or data.has_prompt]
    jobs = [(s, c) for _ in range(rounds) for s in range(len(data.index)) for c in columns]
    return np.array(jobs, dtype=np.int64).reshape(-1, 2), own


def _read(denoiser: Denoiser, data: Data, rows: Integers, hide: torch.Tensor) -> Nats:
    device = data.tokens.device
    row = torch.from_numpy(rows).to(device)
    clean = data.tokens[row]
    hidden = torch.zeros_like(clean, dtype=torch.bool)
    hidden.scatter_(1, data.places[row], hide.to(device))
    # A denoiser knows the padding of one batch only, so each batch gets its own.
    if data.attention_mask is not None and isinstance(denoiser, ModelDenoiser):
        denoiser = ModelDenoiser(denoiser.adapter, data.attention_mask[row])
    return hidden_nats(denoiser, clean, hidden, data.mask_token_id)


def _blind(denoiser: Denoiser, data: Data) -> Nats:
    """Every sequence with everything hidden, from one pass."""

    class Shared(Denoiser):
        def __call__(self, tokens: torch.Tensor, rows: torch.Tensor) -> Any:
            answer = denoiser(tokens[:1], rows[: tokens.shape[1]])
            if isinstance(answer, tuple):
                return answer[0], answer[1].repeat(len(tokens))
            # What is not one row of logits for each position is refused where it is read.
            if not isinstance(answer, torch.Tensor) or len(answer) != tokens.shape[1]:
                return answer
            return answer, torch.arange(len(answer), device=answer.device).repeat(len(tokens))

    return hidden_nats(
        Shared(), data.tokens, torch.ones_like(data.tokens, dtype=torch.bool), data.mask_token_id
    )


def doubt(values: Array, counts: Integers, n: int) -> str | None:
    """One sentence on why the standard errors of values [S, C] are too small; None if they are not.

    The thresholds come from Markov chains of known entropy: below them, 95 % intervals covered the
    truth clearly less often.
    """
    number = len(values)
    if number < FEW:
        return (
            f"{number} sequences are too few for standard errors (they come out too small); use "
            f"{FEW} or more"
        )
    sums = values.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        carrying = np.nan_to_num(sums**2 / (values**2).sum(0))  # 1: one sequence is the whole mean
    seen = sums * (n - counts)  # nats, over all sequences
    rare = (carrying < min(FEW, number / 2)) | (seen < FEW_NATS)
    if rare.mean() <= 0.5:
        return None
    return (
        f"the model is almost certain of most tokens: at {int(rare.sum())} of {len(counts)} counts "
        f"the mean entropy rests on few sequences or fewer than {FEW_NATS} nats in all, so the "
        "standard errors may be far too small; use more sequences, or more passes"
    )
