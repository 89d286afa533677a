"""Faults that have been observed in other samplers; none of them may appear here."""

import pytest
import torch
from families import MASK, Dream, LLaDA, V

import mdm_schedules as mdm

POLICIES = ["low_confidence", "margin", "entropy", "random", "ancestral", "left_to_right"]


class LovesTheMask(LLaDA):
    """Predicts the mask token everywhere."""

    def __init__(self):
        super().__init__()
        self.lm_head.bias.data[MASK] = 100


def prompts(batch=2, length=6):
    return torch.randint(0, MASK, (batch, length), generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("remasking", POLICIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_mask_is_never_drawn_nor_returned(remasking, temperature):
    out = mdm.generate(
        LovesTheMask(),
        prompts(),
        max_new_tokens=16,
        steps=4,
        remasking=remasking,
        temperature=temperature,
    )
    assert not (out.sequences == MASK).any()
    assert out.nfe == 4


def test_masks_inside_a_prompt_are_filled_and_the_answer_has_none():
    ids = prompts()
    ids[0, 1:4], ids[1, 5] = MASK, MASK  # different numbers in the two rows
    out = mdm.generate(LLaDA(), ids, max_new_tokens=8, block_length=4, steps=8)
    assert not (out.sequences == MASK).any()
    given = ids != MASK
    assert torch.equal(out.sequences[:, :6][given], ids[given])
    assert out.nfe == 8


@pytest.mark.parametrize("model", [LLaDA, Dream])
def test_rows_with_unequal_numbers_of_masks_do_not_overwrite_each_others_prompts(model):
    ids = torch.full((2, 12), MASK)
    ids[0, :10], ids[1, :2] = 7, 9
    out = mdm.generate(model(), ids, steps=5)
    assert (out.sequences[0, :10] == 7).all()
    assert (out.sequences[1, :2] == 9).all()
    assert not (out.sequences == MASK).any()


@pytest.mark.parametrize(
    ("new", "steps", "passes"), [(32, 128, 32), (32, 10, 10), (128, 128, 128), (100, 128, 100)]
)
@pytest.mark.parametrize("schedule", ["linear", "cosine", "beta(a=0.9, b=0.3)"])
def test_passes_are_those_asked_for_and_none_is_empty(new, steps, passes, schedule):
    model = LLaDA()
    model.config.max_sequence_length = 256
    out = mdm.generate(model, prompts(1), max_new_tokens=new, steps=steps, schedule=schedule)
    assert out.nfe == passes
    assert (out.plan > 0).all()


def test_steps_that_do_not_divide_among_blocks_are_kept():
    out = mdm.generate(LLaDA(), prompts(), max_new_tokens=12, block_length=4, steps=10)
    assert out.nfe == 10
    ragged = mdm.generate(LLaDA(), prompts(), max_new_tokens=10, block_length=4, steps=5)
    assert ragged.nfe == 5
    assert ragged.sequences.shape == (2, 16)


@pytest.mark.parametrize("steps", [4, 5, 17, 30, 37, 38])
def test_masks_in_the_prompt_get_their_share_of_the_steps_among_blocks(steps):
    ids = torch.tensor([[5] + [MASK] * 6 + [7], [5] * 8])
    blocks = []
    out = mdm.generate(
        LLaDA(),
        ids,
        max_new_tokens=32,
        block_length=8,
        steps=steps,
        callback=lambda info: blocks.append(info.revealed),
    )
    assert out.nfe == steps == len(blocks)
    first = sum(bool(revealed[:, :16].any()) for revealed in blocks)
    assert abs(first - steps * 14 / 38) <= 1


def test_blocks_of_equal_size_share_evenly_as_in_llada():
    starts = []
    mdm.generate(
        LLaDA(),
        prompts(),
        max_new_tokens=16,
        block_length=4,
        steps=8,
        callback=lambda info: starts.append(int(info.revealed[0].nonzero()[0]) // 2 * 2),
    )
    assert [
        sum(6 + 4 * block <= start < 10 + 4 * block for start in starts) for block in range(4)
    ] == [2, 2, 2, 2]


def test_a_prompt_that_is_not_aligned_to_blocks_spends_no_extra_pass():
    for length in (3, 4, 5):
        assert (
            mdm.generate(LLaDA(), prompts(1, length), max_new_tokens=8, block_length=4, steps=6).nfe
            == 6
        )


def test_an_eos_in_the_prompt_is_no_eos_in_the_answer():
    eos = 3
    ids = prompts()
    ids[:, 1], ids[:, 4] = eos, eos
    options = {"max_new_tokens": 12, "steps": 12, "suppress_tokens": [eos]}
    out = mdm.generate(LLaDA(), ids, eos_token_id=eos, **options)
    assert torch.equal(out.sequences, mdm.generate(LLaDA(), ids, **options).sequences)
    assert out.nfe == 12


def test_suppressed_tokens_are_never_drawn_and_the_models_logits_are_not_touched():
    model, kept = LLaDA().eval(), []

    def keep(module, args, output):
        kept.append((output, output.clone()))

    handle = model.lm_head.register_forward_hook(keep)
    out = mdm.generate(
        model,
        prompts(),
        max_new_tokens=12,
        steps=3,
        suppress_tokens=range(0, 50),
        temperature=1.0,
        top_k=4,
        top_p=0.9,
    )
    handle.remove()
    assert int(out.sequences[:, 6:].min()) >= 50
    assert kept
    assert all(torch.equal(now, then) for now, then in kept)


def test_guidance_needs_no_attention_mask():
    assert mdm.generate(LLaDA(), prompts(), max_new_tokens=4, cfg_scale=1.0).nfe == 4


def test_a_users_tensors_are_never_changed():
    ids, mask = prompts(), torch.ones(2, 6, dtype=torch.long)
    mask[0, 0] = 0
    before = ids.clone(), mask.clone()
    mdm.generate(LLaDA(), ids, mask, max_new_tokens=4, temperature=1.0)
    assert torch.equal(ids, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize("temperature", [0.0, 0.2])
def test_confidence_does_not_depend_on_temperature_nor_on_bfloat16_ties(temperature):
    """Float32 confidences keep an order where bfloat16 ties many of them at 1.0.

    With ties the order from the left would win.
    """
    logits = torch.zeros(1, 8, V)
    logits[0, torch.arange(8), 5] = 14 + torch.arange(8) / 4  # the last is the surest
    half = logits.bfloat16()
    assert (half.softmax(-1).amax(-1) == 1).all()
    order = []
    out = mdm.generate(
        lambda tokens: half,
        torch.full((1, 8), MASK),
        mask_token_id=MASK,
        temperature=temperature,
        callback=lambda info: order.append(int(info.revealed[0].nonzero())),
        seed=0,
    )
    assert (out.sequences == 5).all()
    assert order == list(range(7, -1, -1))
