"""Sequences as a profile measures them: checked, and grouped by length and number of masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mdm_schedules.checks import check_int, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.models import ModelAdapter, ModelDenoiser, as_denoiser, takes_padding

_EXAMPLE = "InformationProfile.estimate(model, sequences, mask_token_id=...)"


@dataclass(frozen=True)
class Data:
    """Checked sequences of one length on the model's device.

    Attributes:
        index: place of each row in what was given.
        tokens: LongTensor [S, L].
        places: LongTensor [S, N], the places of the maskable tokens.
        mask_token_id: the mask token.
        attention_mask: bool [S, L], False on padding; None without padding.
    """

    index: tuple[int, ...]
    tokens: torch.Tensor
    places: torch.Tensor
    mask_token_id: int
    attention_mask: torch.Tensor | None = None

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
) -> list[Data]:
    """Check everything that can be wrong with the input before the model runs.

    Args:
        model, mask_token_id: as for `InformationProfile.estimate`.
        sequences: integers [S, L], or S rows of different lengths.
        maskable: bool [S, L], or S rows of the sequences' lengths; None is all.
        attention_mask: bool [S, L], False on padding; for sequences [S, L] only.

    Returns:
        Groups of one length and one number of maskable tokens, in the order of first appearance.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument.
    """
    if not callable(model) and not isinstance(model, ModelAdapter):
        raise InvalidTypeError(
            f"the model must be callable, tokens [B, L] -> logits [B, L, V], got {shown(model)}"
        )
    rows = _rows(sequences)
    hideable = _hideable(maskable, rows)
    real = _real(attention_mask, rows)
    if real is not None:  # padding is no token, so it is neither hidden nor measured
        hideable = [
            hidden & row.to(hidden.device) for hidden, row in zip(hideable, real, strict=True)
        ]
    for number, hidden in enumerate(hideable):
        if not bool(hidden.any()):
            raise InvalidValueError(
                f"every sequence must have at least 1 maskable token, sequence {number} has none"
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
    if any(bool((row == mask_token_id).any()) for row in rows):
        raise InvalidValueError(
            f"sequences must be clean text, but hold the mask token {mask_token_id}"
        )
    vocabulary = math.inf if adapter is None else adapter.vocab_size or math.inf
    # An id beyond the embedding table would fail inside the model, on a GPU with no clear message.
    highest = max(mask_token_id, *(int(row.max()) for row in rows))
    if highest >= vocabulary:
        raise InvalidValueError(
            f"token ids must lie in [0, {vocabulary - 1}], which the model can read, got {highest}"
        )
    longest, given = None if adapter is None else adapter.max_length, max(map(len, rows))
    if longest is not None and given > longest:
        raise InvalidValueError(
            f"sequences have {given} tokens, but the model has positions for {longest}; cut them"
        )
    padded = real
    if padded is not None and adapter is None:
        raise _no_padding(attention_mask)
    # Some models ignore an attention mask without saying so, so it is tried. Their sequences run
    # without padding, those of one length together.
    if padded is not None and adapter is not None and not takes_padding(adapter):
        if not bool((padded[:, 1:] >= padded[:, :-1]).all()):
            raise InvalidValueError("attention_mask must have its zeros on the left for this model")
        cut = [slice(int(row.long().argmax()), None) for row in padded]
        rows = [row[part] for row, part in zip(rows, cut, strict=True)]
        hideable = [row[part] for row, part in zip(hideable, cut, strict=True)]
        padded = None
    # Move the data once, here, and not at every batch.
    device = (None if adapter is None else adapter.device) or rows[0].device
    return [
        _group(members, rows, hideable, mask_token_id, padded, device)
        for members in _members(rows, hideable)
    ]


def _members(rows: Sequence[torch.Tensor], hideable: Sequence[torch.Tensor]) -> list[list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for number, (row, hidden) in enumerate(zip(rows, hideable, strict=True)):
        found.setdefault((len(row), int(hidden.sum())), []).append(number)
    return list(found.values())


def _group(
    members: list[int],
    rows: Sequence[torch.Tensor],
    hideable: Sequence[torch.Tensor],
    mask_token_id: int,
    padded: torch.Tensor | None,
    device: torch.device,
) -> Data:
    hidden = torch.stack([hideable[number] for number in members]).to(device)
    return Data(
        tuple(members),
        torch.stack([rows[number] for number in members]).to(device),
        hidden.nonzero()[:, 1].reshape(len(members), -1),
        mask_token_id,
        None if padded is None else padded[members].to(device),
    )


def _rows(sequences: Any) -> list[torch.Tensor]:
    """Each sequence as a LongTensor [L], L >= 1."""
    try:
        tokens = torch.as_tensor(sequences)
    except (TypeError, ValueError, RuntimeError):
        # Rows of different lengths make no tensor.
        if not isinstance(sequences, Sequence) or isinstance(sequences, str):
            raise _no_sequences(sequences) from None
        rows = [_row(row, sequences) for row in sequences]
        if len(rows) < 2 or not all(map(len, rows)):
            raise InvalidValueError(
                "sequences must be S >= 2 rows of token ids, none empty (some are held out to "
                f"choose the curve), got {len(rows)} of {min(map(len, rows), default=0)} tokens "
                "and more"
            ) from None
    else:
        if tokens.ndim != 2 or len(tokens) < 2 or tokens.shape[1] == 0:
            raise InvalidValueError(
                "sequences must be [S, L] with S >= 2 (some are held out to choose the curve), got "
                f"{tuple(tokens.shape)}"
            )
        if tokens.is_sparse or tokens.is_meta:
            raise _no_sequences(sequences)
        rows = list(tokens)
    for row in rows:
        if row.is_floating_point() or row.is_complex() or row.dtype == torch.bool:
            raise InvalidTypeError(f"sequences must hold integer token ids, got {row.dtype}")
        if bool((row < 0).any()):
            raise InvalidValueError(f"sequences must hold token ids >= 0, got {int(row.min())}")
    return [row.long() for row in rows]


def _row(row: Any, sequences: Any) -> torch.Tensor:
    try:
        tokens = torch.as_tensor(row)
    except (TypeError, ValueError, RuntimeError):
        raise _no_sequences(sequences) from None
    if tokens.ndim != 1:
        raise _no_sequences(sequences)
    return tokens


def _no_sequences(sequences: Any) -> InvalidTypeError:
    return InvalidTypeError(
        f"sequences must be token ids [S, L], or S rows of token ids, got {shown(sequences)}"
    )


def _hideable(maskable: Any, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    if maskable is None:
        return [torch.ones_like(row, dtype=torch.bool) for row in rows]
    given = list(maskable) if isinstance(maskable, torch.Tensor | Sequence) else []
    if [getattr(row, "shape", None) for row in given] != [row.shape for row in rows] or any(
        getattr(row, "dtype", None) != torch.bool for row in given
    ):
        lengths = {len(row) for row in rows}
        form = (
            f"a bool tensor of shape {(len(rows), *lengths)}"
            if len(lengths) == 1
            else f"{len(rows)} bool tensors as long as the sequences"
        )
        raise InvalidValueError(f"maskable must be {form}: True where tokens are generated")
    return given


def _real(attention_mask: Any, rows: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """True on tokens, False on padding; None where nothing is padded."""
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, torch.Tensor):
        raise _no_padding(attention_mask)
    if attention_mask.shape != (len(rows), *{len(row) for row in rows}):
        raise _no_padding(tuple(attention_mask.shape))
    real = attention_mask.to(torch.bool)
    return None if bool(real.all()) else real


def _no_padding(given: Any) -> InvalidValueError:
    return InvalidValueError(
        "attention_mask must be a bool tensor of the shape of the sequences, [S, L], for a model "
        f"that can read it, got {shown(given)}; sequences without padding may have different "
        "lengths"
    )
