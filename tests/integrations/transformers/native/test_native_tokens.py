"""Tokens at temperature 0 are those of the released samplers, written here from their description.

The logits come from the references of the architectures, so that model and sampler are both checked.
"""

import pytest
import torch
from released import MASK, SHIFTED, reference, weights_of, write

import mdm_schedules as mdm
from mdm_schedules.integrations.transformers.native import load_native

BLOCK = 8  # of LLaDA2


def even(count, steps):
    """Equal counts, the remainder in the first steps: LLaDA and LLaDA2."""
    return [count // steps + (i < count % steps) for i in range(steps)]


def by_times(count, steps, eps=1e-3):
    """Count the tokens of each step of Dream: the share 1 - s / t of what is left, rounded down."""
    times, plan = torch.linspace(1, eps, steps + 1), []
    for i in range(steps - 1):
        plan.append(int((count - sum(plan)) * (1 - times[i + 1] / times[i])))
    return [*plan, count - sum(plan)]


def sampler(family, canvas, ends, plan, threshold=2.0):
    """Fill the masks block by block; a step writes the surest tokens of the block, `plan` of them.

    Those above `threshold` are written where they are more. A block is done when it is full.
    """
    weights, start = weights_of(family), 0
    for end in ends:
        for count in plan:
            masked = canvas[0, start:end] == MASK
            if not masked.any():
                break
            seen = end if family == "llada2" else canvas.shape[1]
            logits = reference(family, weights, canvas[:, :seen])
            if family in SHIFTED:
                logits = torch.cat([logits[:, :1], logits[:, :-1]], 1)
            chance = logits[0, start:end].softmax(-1)
            logits[..., MASK] = -torch.inf
            drawn = logits[0, start:end].argmax(-1)
            sure = chance.gather(1, drawn[:, None])[:, 0].masked_fill(~masked, -1)
            above = int((sure > threshold).sum())
            best = sure.topk(max(above, min(count, int(masked.sum())))).indices
            canvas[0, start + best] = drawn[best]
        start = end
    return canvas


def prompt(length):
    return torch.randint(3, 90, (1, length), generator=torch.Generator().manual_seed(length))


def native(folder, family):
    write(folder, family)
    return load_native(folder, dtype=torch.float32, mask_token_id=MASK)


def masks_after(ids, count):
    return torch.nn.functional.pad(ids, (0, count), value=MASK)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llada", "llada_moe"])
def test_tokens_of_llada(tmp_path, family):
    model = native(tmp_path, family)
    for new, block, steps in ((12, 12, 5), (12, 6, 4)):
        ids = prompt(7)
        ends = [*range(7 + block, 7 + new + 1, block)]
        plan = even(block, steps)
        want = sampler(family, masks_after(ids, new), [7, *ends], plan)
        out = mdm.generate(model, ids, max_new_tokens=new, block_length=block, plan=plan)
        assert torch.equal(out.sequences, want)
        assert out.nfe == steps * new // block


@torch.no_grad()
def test_tokens_of_dream(tmp_path):
    model = native(tmp_path, "dream")
    for steps in (12, 5, 3):
        ids = prompt(6)
        plan = [count for count in by_times(12, steps) if count]
        want = sampler("dream", masks_after(ids, 12), [18], plan)
        out = mdm.generate(model, ids, max_new_tokens=12, plan=plan)
        assert torch.equal(out.sequences, want)


@torch.no_grad()
@pytest.mark.parametrize(("length", "new"), [(8, 8), (5, 11), (3, 14), (13, 9)])
@pytest.mark.parametrize("threshold", [2.0, 0.2])
def test_tokens_of_llada2_at_any_length(tmp_path, length, new, threshold):
    model = native(tmp_path, "llada2")
    ids = prompt(length)
    ends = range(BLOCK, length + new + BLOCK, BLOCK)
    ends = [end for end in ends if end - BLOCK < length + new]
    plan = even(BLOCK, 3)
    canvas = masks_after(ids, ends[-1] - length)
    want = sampler("llada2", canvas, ends, plan, threshold)[:, : length + new]
    options = {"threshold": threshold} if threshold < 1 else {}
    out = mdm.generate(model, ids, max_new_tokens=new, plan=plan, **options)
    assert torch.equal(out.sequences, want)
