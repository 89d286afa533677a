"""The conformance suite for model adapters."""

from __future__ import annotations

import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models import ModelAdapter, evaluating, models
from mdm_schedules.sampling import generate
from mdm_schedules.testing.common import check_name, failing_as, require, same, watched


def check_adapter(
    adapter: ModelAdapter,
    *,
    tokens: torch.Tensor | None = None,
    mask_token_id: int | None = None,
    registered: bool = True,
    tolerance: float = 1e-4,
) -> None:
    """Run the whole suite; raises AssertionError saying what is wrong.

    Args:
        adapter: bound to a small model with random weights, in float32 or float64.
        tokens: clean token ids [B, L] with B >= 2 and L >= 4 that the model can read; by default
            two rows of eight from the middle of its vocabulary, which it then has to know.
        mask_token_id: where the model's config does not have it.
        registered: its class is what its `name` stands for in the group `mdm_schedules.models`.
        tolerance: by which logits may differ for numerical reasons, relative to 1 + their size.
    """
    require(
        isinstance(adapter, ModelAdapter),
        adapter,
        "must derive from mdm_schedules.models.ModelAdapter",
    )
    check_name(adapter, models, registered)
    _check_attributes(adapter)
    mask = adapter.mask_token_id if mask_token_id is None else mask_token_id
    require(mask is not None, adapter, "its model has no mask_token_id; give mask_token_id=")
    assert mask is not None
    if tokens is None:
        size = adapter.vocab_size
        require(size is not None, adapter, "vocab_size is None; give tokens=")
        # Tokens from all over the vocabulary, the same in every run, none of them the mask.
        usable = [token for token in range(size or 0) if token != mask]
        middle = (torch.arange(16) * 5 + len(usable) // 2) % len(usable)
        tokens = torch.tensor(usable)[middle].view(2, 8).to(adapter.device or "cpu")
    masked = tokens.clone()
    masked[:, 2::2] = mask
    with evaluating(adapter.model):
        _check_logits(adapter, masked, tolerance)
        _check_padding(adapter, masked, mask, tolerance)
    _check_generation(adapter, tokens[:, :4], mask)


def _check_attributes(adapter: ModelAdapter) -> None:
    require(adapter.shift in (0, 1), adapter, f"shift must be 0 or 1, got {adapter.shift!r}")
    for name in ("mask_token_id", "vocab_size", "max_length", "block_length"):
        with failing_as(adapter, name):
            value = getattr(adapter, name)
        require(
            value is None or (isinstance(value, int) and value >= (name != "mask_token_id")),
            adapter,
            f"{name} must be a number or None, got {value!r}",
        )
    with failing_as(adapter, "head and device"):
        head, device = adapter.head, adapter.device
    require(
        head is None or isinstance(head, torch.nn.Module),
        adapter,
        f"head must be a module or None, got {type(head).__name__}",
    )
    require(
        device is None or isinstance(device, torch.device),
        adapter,
        f"device must be a torch.device or None, got {device!r}",
    )
    # adapters are asked in turn, so one that fails would hide those after it
    for stranger in (object(), torch.nn.Linear(2, 2), lambda tokens: tokens):
        with failing_as(adapter, f"accepts({type(stranger).__name__})"):
            answer = type(adapter).accepts(stranger)
        require(
            isinstance(answer, bool), adapter, f"accepts must return True or False, got {answer!r}"
        )


def _check_logits(adapter: ModelAdapter, tokens: torch.Tensor, tolerance: float) -> None:
    count, length = tokens.shape
    full = watched(adapter, "forward", adapter.forward, tokens, None)
    given = tuple(full.shape) if isinstance(full, torch.Tensor) else type(full).__name__
    require(
        isinstance(full, torch.Tensor) and full.ndim == 3 and full.shape[:2] == tokens.shape,
        adapter,
        f"forward must return logits {[count, length, 'V']}, got {given}",
    )
    require(full.is_floating_point(), adapter, f"logits must be floats, got {full.dtype}")
    require(not bool(full.isnan().any()), adapter, "forward returns NaN")
    size = adapter.vocab_size
    require(
        size is None or full.shape[2] >= size,
        adapter,
        f"logits are of {full.shape[2]} tokens, fewer than vocab_size = {size}",
    )
    # Neither all rows nor in order, as the loop asks for them.
    rows = torch.arange(tokens.numel(), device=tokens.device).flip(0)[::3]
    column = rows % length
    source = torch.where(column > 0, rows - adapter.shift, rows)
    wanted = full.flatten(0, 1)[source]
    gathered = _gathered(adapter, tokens, rows)
    require(
        _close(gathered, wanted, tolerance),
        adapter,
        "logits of some rows differ from those of forward at the same positions"
        + (" less the shift" if adapter.shift else ""),
    )
    require(
        _close(adapter.forward(tokens, None), full, tolerance),
        adapter,
        "after logits, forward gives something else (is a hook left on the model?)",
    )
    for i in range(count):
        alone = adapter.forward(tokens[i : i + 1], None)
        require(
            _close(alone[0], full[i], tolerance), adapter, "the logits of a row depend on the batch"
        )


def _gathered(
    adapter: ModelAdapter,
    tokens: torch.Tensor,
    rows: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    answer = watched(adapter, "logits", adapter.logits, tokens, rows, attention_mask)
    logits: torch.Tensor = answer[0][answer[1]] if isinstance(answer, tuple) else answer
    require(
        logits.ndim == 2 and len(logits) == len(rows),
        adapter,
        f"logits of {len(rows)} rows must be {[len(rows), 'V']}, got {list(logits.shape)}",
    )
    return logits


def _check_padding(
    adapter: ModelAdapter, tokens: torch.Tensor, mask: int, tolerance: float
) -> None:
    """Either padding is refused, or it changes nothing."""
    try:
        adapter.check_padding()
    except InvalidValueError:
        return
    length, pad = tokens.shape[1], 2
    padded = torch.nn.functional.pad(tokens[:1], (pad, 0), value=int(tokens[0, 0]))
    attention_mask = torch.ones_like(padded, dtype=torch.bool)
    attention_mask[:, :pad] = False
    rows = torch.arange(length, device=tokens.device)
    alone = _gathered(adapter, tokens[:1], rows)
    beside = _gathered(adapter, padded, rows + pad, attention_mask)
    require(
        _close(beside, alone, tolerance),
        adapter,
        "padding on the left changes the logits; obey attention_mask and count positions from the "
        "first real token, or raise InvalidValueError in check_padding",
    )


def _check_generation(adapter: ModelAdapter, prompt: torch.Tensor, mask: int) -> None:
    inner = adapter.plain_model
    module = inner if isinstance(inner, torch.nn.Module) else torch.nn.Module()
    before = [parameter.clone() for parameter in module.parameters()]
    modes = [part.training for part in module.modules()]
    new = adapter.block_length or 4
    with failing_as(adapter, "generate"):
        out = generate(adapter, prompt, max_new_tokens=new, steps=2, seed=0, mask_token_id=mask)
    require(
        torch.equal(out.sequences[:, : prompt.shape[1]], prompt), adapter, "the prompt was changed"
    )
    require(not bool((out.sequences == mask).any()), adapter, "generate leaves mask tokens")
    require(
        all(map(same, module.parameters(), before))
        and [part.training for part in module.modules()] == modes,
        adapter,
        "generate changed the model's weights or its training mode",
    )


def _close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=tolerance, atol=tolerance, equal_nan=True
    )
