"""Entropy per hidden token at chosen reveal counts: the forward passes behind `estimate`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mdm_schedules.checks import check_int, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.models import (
    Denoiser,
    ModelAdapter,
    ModelDenoiser,
    as_denoiser,
    evaluating,
    takes_padding,
)

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

METHODS = ("entropy", "cross_entropy")
DEFAULT_COUNTS = 64
FEW = 8  # with fewer sequences, standard errors are unreliable
FEW_NATS = 5
# Logits per softmax call, so that a large vocabulary needs little memory beside the model's.
_CELLS = 1 << 24
_EXAMPLE = "InformationProfile.estimate(model, sequences, mask_token_id=...)"


@dataclass(frozen=True)
class Measurement:
    """How a profile was estimated.

    Attributes:
        counts: numbers of revealed tokens that were measured.
        means, standard_errors: entropy per hidden token in nats at each count, over sequences,
            before any fit. The errors are estimates themselves: with fewer than 8 sequences, or a
            model that is almost always certain, they are too small, and `estimate` warns.
        passes: sequences passed forward (a batch of B counts B).
        sequences: number of sequences.
        method, seed: as given to `estimate`.
        curve: the kind of curve chosen: beta_mixture, isotonic, convex or beta.
        held_out: for each kind, the cost of its plans on sequences held out from its fit (1 is the
            mean over kinds).
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


@dataclass(frozen=True)
class Data:
    """Checked sequences [S, L] on the model's device, and the places [S, N] of maskable tokens."""

    tokens: torch.Tensor
    places: torch.Tensor
    mask_token_id: int
    attention_mask: torch.Tensor | None = None  # bool [S, L], False on padding
    takes_padding: bool = True  # else only sequences of one length are passed together

    @property
    def starts(self) -> torch.Tensor:
        """The first column of each sequence that must be cut, LongTensor [S]."""
        if self.takes_padding or self.attention_mask is None:
            return torch.zeros(len(self.tokens), dtype=torch.long, device=self.tokens.device)
        return self.attention_mask.long().argmax(1)

    @property
    def num_tokens(self) -> int:
        return self.places.shape[1]

    @property
    def has_prompt(self) -> bool:
        return self.places.shape != self.tokens.shape


def check_data(
    model: Any,
    sequences: Any,
    maskable: Any,
    mask_token_id: int | None,
    attention_mask: torch.Tensor | None = None,
) -> Data:
    """Check everything that can be wrong with the input before the model runs.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument.
    """
    if not callable(model) and not isinstance(model, ModelAdapter):
        raise InvalidTypeError(
            f"the model must be callable, tokens [B, L] -> logits [B, L, V], got {shown(model)}"
        )
    try:
        tokens = torch.as_tensor(sequences)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(
            f"sequences must be token ids [S, L], got {shown(sequences)}"
        ) from None
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise InvalidTypeError(f"sequences must hold integer token ids, got {tokens.dtype}")
    if tokens.ndim != 2 or len(tokens) < 2 or tokens.shape[1] == 0:
        raise InvalidValueError(
            "sequences must be [S, L] with S >= 2 (some are held out to choose the curve), got "
            f"{tuple(tokens.shape)}"
        )
    tokens = tokens.long()
    if bool((tokens < 0).any()):
        raise InvalidValueError(f"sequences must hold token ids >= 0, got {int(tokens.min())}")
    hideable = torch.ones_like(tokens, dtype=torch.bool)
    if maskable is not None:
        if (
            not isinstance(maskable, torch.Tensor)
            or maskable.dtype != torch.bool
            or maskable.shape != tokens.shape
        ):
            raise InvalidValueError(
                f"maskable must be a bool tensor of shape {tuple(tokens.shape)}: True where tokens"
            )
        hideable = maskable
    # A profile has one length N, so each row needs the same number of maskable tokens.
    counts = hideable.sum(1)
    if int(counts.min()) != int(counts.max()) or int(counts.min()) == 0:
        raise InvalidValueError(
            "every sequence must have the same number of maskable tokens, at least 1, got "
            f"{int(counts.min())} to {int(counts.max())}; cut the answers to one length, or "
            "estimate per length"
        )
    # Only adapters know a vocabulary, a maximal length and a mask token.
    denoiser = as_denoiser(model)
    adapter = denoiser.adapter if isinstance(denoiser, ModelDenoiser) else None
    if mask_token_id is None:
        mask_token_id = None if adapter is None else adapter.mask_token_id
        if mask_token_id is None:
            raise InvalidValueError(
                f"mask_token_id is not in the model's config; give it: {_EXAMPLE}"
            )
    mask_token_id = check_int("mask_token_id", mask_token_id, 0, example=_EXAMPLE)
    if bool((tokens == mask_token_id).any()):
        raise InvalidValueError(
            f"sequences must be clean text, but hold the mask token {mask_token_id}"
        )
    vocabulary = math.inf if adapter is None else adapter.vocab_size or math.inf
    # An id beyond the embedding table would fail inside the model, on a GPU with no clear message.
    highest = max(int(tokens.max()), mask_token_id)
    if highest >= vocabulary:
        raise InvalidValueError(
            f"token ids must lie in [0, {vocabulary - 1}], which the model can read, got {highest}"
        )
    longest = None if adapter is None else adapter.max_length
    if longest is not None and tokens.shape[1] > longest:
        raise InvalidValueError(
            f"sequences have {tokens.shape[1]} tokens, but the model has positions for {longest}; "
            "cut them"
        )
    # Move the data once, here, and not at every batch.
    device = (None if adapter is None else adapter.device) or tokens.device
    tokens, hideable = tokens.to(device), hideable.to(device)
    padded, apart = None, False
    if attention_mask is not None and not bool(attention_mask.all()):
        if adapter is None or attention_mask.shape != tokens.shape:
            raise InvalidValueError(
                f"attention_mask must be a bool tensor of shape {tuple(tokens.shape)}, for a model "
                "that can read it"
            )
        padded = attention_mask.to(device, torch.bool)
        # Some models ignore an attention mask without saying so; find out before measuring.
        apart = not takes_padding(adapter)
        if apart and not bool((padded[:, 1:] >= padded[:, :-1]).all()):
            raise InvalidValueError("attention_mask must have its zeros on the left for this model")
    places = hideable.nonzero()[:, 1].reshape(len(tokens), -1)
    return Data(tokens, places, mask_token_id, padded, not apart)


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
    data: Data,
    counts: Integers,
    rounds: int,
    method: str,
    seed: int,
    batch_size: int,
    progress: bool,
) -> tuple[Array, int]:
    """Mean entropy over hidden tokens, in nats [S, C], and the number of sequences passed forward.

    Rows are sequences and columns are counts. Each round draws one random subset per sequence and
    count, from one generator of its own; the batch size does not change the draw.
    """
    jobs = np.array(
        [(s, c) for _ in range(rounds) for s in range(len(data.tokens)) for c in range(len(counts))]
    )
    # With everything hidden and no prompt, all sequences look the same: one pass measures their
    # common entropy.
    shared = method == "entropy" and not data.has_prompt
    if shared:
        jobs = jobs[(counts[jobs[:, 1]] > 0) | (np.arange(len(jobs)) == 0)]
    # Drawn on the host, so that every device measures the same subsets.
    draw = np.random.default_rng(seed)
    sums, times = (
        np.zeros((len(data.tokens), len(counts))),
        np.zeros((len(data.tokens), len(counts))),
    )
    denoiser = as_denoiser(model)
    starts = data.starts
    groups = _by(starts[torch.from_numpy(jobs[:, 0])].tolist(), batch_size)
    with evaluating(model):
        for part in _shown([jobs[group] for group in groups], len(jobs), progress):
            # A random permutation of each row; tokens with a rank below the count stay visible.
            rank = torch.from_numpy(draw.random((len(part), data.num_tokens))).argsort(1)
            hide = (rank >= torch.from_numpy(counts[part[:, 1]])[:, None]).to(data.tokens.device)
            row = torch.from_numpy(part[:, 0]).to(data.tokens.device)
            clean = data.tokens[row]
            hidden = torch.zeros_like(clean, dtype=torch.bool).scatter_(1, data.places[row], hide)
            start = int(starts[row[0]])
            clean, hidden = clean[:, start:], hidden[:, start:]
            # A denoiser knows the padding of one batch only, so each batch gets its own.
            padded = data.attention_mask if data.takes_padding else None
            if padded is not None and isinstance(denoiser, ModelDenoiser):
                denoiser = ModelDenoiser(denoiser.adapter, padded[row])
            nats = hidden_nats(denoiser, clean, hidden, data.mask_token_id, method)
            if np.isinf(nats).any():
                raise InvalidValueError(
                    "the model gives a token of the sequences probability 0, so the cross-entropy "
                    "is infinite; "
                    "use method='entropy'"
                )
            owner = hidden.nonzero()[:, 0].cpu().numpy()
            np.add.at(
                sums,
                (part[:, 0], part[:, 1]),
                np.bincount(owner, weights=nats) / np.bincount(owner),
            )
            np.add.at(times, (part[:, 0], part[:, 1]), 1)
    if shared:
        sums[1:, 0], times[1:, 0] = sums[0, 0], times[0, 0]
    return sums / times, len(jobs)


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


def _by(keys: list[int], size: int) -> Iterator[list[int]]:
    """Indices of equal keys, at most `size` together; in their own order where all are equal."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for _, same in groupby(order, keys.__getitem__):
        group = list(same)
        yield from (group[begin : begin + size] for begin in range(0, len(group), size))


def _shown(parts: list[Any], total: int, progress: bool) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(total=total, unit="pass", desc="information profile", disable=not progress) as bar:
        for part in parts:
            yield part
            bar.update(len(part))


def hidden_nats(
    denoiser: Denoiser, clean: torch.Tensor, hidden: torch.Tensor, mask_token_id: int, method: str
) -> Array:
    """Entropy or cross-entropy of each hidden token, in nats, in the order of `hidden.nonzero()`.

    A true token of probability 0 has infinite cross-entropy.
    """
    cells = hidden.flatten().nonzero()[:, 0]
    answer = denoiser(clean.masked_fill(hidden, mask_token_id), cells)
    logits, index = (
        answer
        if isinstance(answer, tuple)
        else (answer, torch.arange(len(cells), device=cells.device))
    )
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point() or logits.ndim != 2:
        given = (
            f"{logits.dtype} {list(logits.shape)}"
            if isinstance(logits, torch.Tensor)
            else shown(logits)
        )
        raise InvalidTypeError(
            f"the model must return floating-point logits with a vocabulary, got {given}"
        )
    if len(index) != len(cells) or (not isinstance(answer, tuple) and len(logits) != len(cells)):
        raise InvalidValueError(
            f"the denoiser was asked for {len(cells)} rows of logits and returned {len(logits)}"
        )
    targets, vocabulary = clean[hidden].to(logits.device), logits.shape[1]
    if int(targets.max()) >= vocabulary:
        raise InvalidValueError(
            f"sequences hold token {int(targets.max())}, but the model has {vocabulary} logits"
        )
    # Chunks bound the memory of the float copies.
    parts = []
    size = max(1, _CELLS // vocabulary)
    for i in range(0, len(cells), size):
        rows = logits[index[i : i + size]]  # a copy, so the model's tensor is not changed
        rows = rows if rows.dtype == torch.float64 else rows.float()
        # The mask is no text: its probability is shared among the real tokens.
        if mask_token_id < vocabulary:
            rows[:, mask_token_id] = -torch.inf
        if not bool(torch.isfinite(rows.max(1).values).all()):
            raise InvalidValueError(
                "the model gave logits with NaN, +inf, or nothing but -inf; nothing can be read"
            )
        logs = rows.log_softmax(1)
        if method == "entropy":
            parts.append(torch.special.entr(logs.exp()).sum(1).double())
        else:
            parts.append(-logs.gather(1, targets[i : i + size, None])[:, 0].double())
    return torch.cat(parts).cpu().numpy()  # type: ignore[no-any-return]
