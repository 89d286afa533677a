"""Draws tokens at the wanted positions only, equal to drawing at all of them.

The tokens are those that torch.argmax or torch.multinomial over all positions would give.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.sampling.rows import chunk_rows


@torch.no_grad()
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
        noise: exponential numbers [B * L, V] from `race_noise`; None takes the most probable token.
        shape: maps wanted logits [r, V] to the logits from whose softmax the token is drawn.

    Returns:
        tokens [R], and their probabilities [R] with the mask token included, as in diffusers'
        schedulers.

    Raises:
        InvalidValueError: logits with NaN or +inf at a wanted position.
    """
    length, vocabulary = logits.shape[1:]
    # [R], indices into the flattened [B * L]; all that follows is [R, V] or smaller.
    rows = wanted.flatten().nonzero()[:, 0]
    size = max(1, min(len(rows), chunk_rows(logits)))
    # A transposed view (aMUSEd's [B, V, H, W]) cannot be flattened without a copy of all logits.
    flat = logits.flatten(0, 1) if logits.is_contiguous() else None
    # reused by the chunks: allocating memory costs more than the computation in it
    held: dict[str, torch.Tensor] = {}

    def buffer(name: str, like: torch.Tensor, count: int) -> torch.Tensor:
        if name not in held:
            held[name] = like.new_empty(size, vocabulary)
        return held[name][:count]

    def take(name: str, table: torch.Tensor, part: slice | torch.Tensor) -> torch.Tensor:
        # all rows in their order: a view suffices
        if isinstance(part, slice) and len(rows) == wanted.numel():
            return table[part]
        chosen = rows[part].to(table.device)
        return torch.index_select(table, 0, chosen, out=buffer(name, table, len(chosen)))

    def draw(part: slice | torch.Tensor, without_mask: bool = False) -> None:
        if flat is None:
            scores = shape(logits[rows[part] // length, rows[part] % length])
        else:
            scores = shape(take("scores", flat, part))
        probs = torch.softmax(scores, -1, out=buffer("probs", scores, len(scores)))
        if noise is None:
            weights = scores.index_fill(1, hidden, -torch.inf) if without_mask else scores
        else:  # torch.multinomial's race of exponentials, for these rows only
            race = take("race", noise, part).to(probs.device)
            weights = torch.div(probs.to(noise.dtype), race, out=buffer("weights", race, len(race)))
            # After the softmax, as in the schedulers that this equals: the mask's share stays in
            # the probabilities.
            weights.index_fill_(1, hidden, -torch.inf)
        best = weights.argmax(-1)
        tokens[part] = best
        confidence[part] = probs.gather(1, best[:, None])[:, 0].float()

    hidden = torch.tensor(
        [mask_token_id] if mask_token_id < vocabulary else [],
        dtype=torch.long,
        device=logits.device,
    )
    tokens, confidence = torch.empty_like(rows), torch.empty(len(rows), device=rows.device)
    for start in range(0, len(rows), size):
        draw(slice(start, start + size))
    # The mask token is hardly ever on top, so draw again where it is and do not copy all logits to
    # exclude it. A race has excluded it already.
    for again in (tokens == mask_token_id).nonzero()[:, 0].split(size):
        if len(again):
            draw(again, without_mask=True)
    if bool(confidence.isnan().any()):
        raise InvalidValueError(
            "the model gave logits with NaN or +inf; look at its dtype and its inputs"
        )
    return tokens, confidence


def race_noise(
    logits: torch.Tensor, generator: torch.Generator | None, dtype: torch.dtype
) -> torch.Tensor:
    """Return the exponential numbers [B * L, V] that torch.multinomial would draw.

    They decide one token per row of `logits` [B, L, V]. The numbers of all rows are drawn in one
    call, which leaves the generator in the state in which diffusers' schedulers would.
    """
    device = logits.device if generator is None else generator.device
    noise = torch.empty(
        logits.shape[0] * logits.shape[1], logits.shape[2], dtype=dtype, device=device
    )
    return noise.exponential_(generator=generator)


def doubtful(
    logits: torch.Tensor,
    sample: torch.Tensor,
    filled: torch.Tensor,
    threshold: float,
    most: torch.Tensor,
) -> torch.Tensor:
    """Return bool [B, L], the filled tokens that became less probable than `threshold`.

    Args:
        logits: [B, L, V].
        sample: LongTensor [B, L], the tokens.
        filled: bool [B, L], those that may be chosen.
        threshold: in [0, 1], of the softmax of the logits as they are.
        most: LongTensor [B, 1], how many at most; the least probable ones come first.
    """
    held = torch.log_softmax(logits.float(), -1).gather(-1, sample[..., None])[..., 0].exp()
    doubt = torch.where(filled & (held < threshold), held, torch.inf)
    place = doubt.argsort(dim=1, stable=True).argsort(dim=1)
    return (doubt < torch.inf) & (place < most)
