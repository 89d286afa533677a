"""Tokens for the wanted positions only, equal to what torch.argmax and torch.multinomial would give for all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.sampling.draw import CHUNK_BYTES


def draw_tokens(
    logits: torch.Tensor,
    wanted: torch.Tensor,
    mask_token_id: int,
    noise: torch.Tensor | None,
    shape: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per wanted position, never the mask token.

    Args:
        logits: [B, L, V], in any layout; only read.
        wanted: bool [B, L], R of them True.
        mask_token_id: may lie outside the vocabulary.
        noise: exponential [B * L, V] from `race_noise`; None takes the most probable token.
        shape: wanted logits [r, V] -> the logits whose softmax the token is drawn from.

    Returns:
        tokens [R], and their probabilities [R] with the mask token counted in, as diffusers' schedulers have it.

    Raises:
        InvalidValueError: logits with NaN or +inf at a wanted position.
    """
    row, column = wanted.nonzero(as_tuple=True)
    vocabulary = logits.shape[-1]
    chunk = max(1, CHUNK_BYTES // (4 * vocabulary))
    tokens = torch.empty_like(row)
    confidence = torch.empty(len(row), dtype=torch.float32, device=row.device)
    for start in range(0, len(row), chunk):
        part = slice(start, start + chunk)
        scores = shape(logits[row[part], column[part]])
        probs = scores.softmax(-1)
        if noise is None:
            weights = scores
        else:  # the race of exponentials that torch.multinomial runs, for these rows
            cells = (row[part] * wanted.shape[1] + column[part]).to(noise.device)
            weights = probs.to(noise.dtype) / noise[cells].to(probs.device)
        if mask_token_id < vocabulary:
            weights[:, mask_token_id] = -torch.inf
        tokens[part] = weights.argmax(-1)
        confidence[part] = probs.gather(1, tokens[part, None])[:, 0]
    if bool(confidence.isnan().any()):
        raise InvalidValueError("the model gave logits with NaN or +inf; look at its dtype and its inputs")
    return tokens, confidence


def race_noise(logits: torch.Tensor, generator: torch.Generator | None, dtype: torch.dtype) -> torch.Tensor:
    """What torch.multinomial draws for one token per row of `logits` [B, L, V]: exponential numbers [B * L, V].

    All rows, in one call: the generator then stands where diffusers' schedulers would leave it.
    """
    device = logits.device if generator is None else generator.device
    noise = torch.empty(logits.shape[0] * logits.shape[1], logits.shape[2], dtype=dtype, device=device)
    return noise.exponential_(generator=generator)
