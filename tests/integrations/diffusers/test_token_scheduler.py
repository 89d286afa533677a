"""`MaskedDiffusionScheduler`: the tokens of diffusers' own, and what is refused."""

import pytest
import torch
from diffusers import AmusedScheduler
from pipelines import TABLE, V, logits, seeded

import mdm_schedules as mdm
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize(
    ("steps", "grid"),
    [(1, (3, 5)), (3, (8, 8)), (6, (4, 4)), (12, (16, 16)), (20, (4, 4)), (7, (37,))],
)
def test_the_tokens_of_amused_scheduler(name, steps, grid):
    for mask, dtype in ((40, torch.float32), (20, torch.float32), (40, torch.bfloat16)):
        theirs = AmusedScheduler(mask_token_id=mask, masking_schedule=name)
        ours = mdm.MaskedDiffusionScheduler(mask_token_id=mask, schedule=name)
        a = b = torch.full((2, *grid), mask)
        one, two = seeded(1), seeded(1)
        theirs.set_timesteps(steps, (2, 0), "cpu")
        ours.set_timesteps(steps, (2, 0), "cpu")
        assert torch.equal(theirs.timesteps, ours.timesteps)
        for step, t in enumerate(theirs.timesteps):
            shape, axis = ((2, V, *grid), 1) if len(grid) == 2 else ((2, *grid, V), -1)
            out = logits(*shape, seed=step, axis=axis, mask=mask if mask < V else None, dtype=dtype)
            start = torch.tensor(0.7) if step % 2 else 1.0
            a, filled = theirs.step(out, t, a, start, generator=one, return_dict=False)
            got = ours.step(out, t, b, start, generator=two)
            b = got.prev_sample
            assert torch.equal(a, b)
            assert torch.equal(filled, got.pred_original_sample)
            assert torch.equal(one.get_state(), two.get_state())
            noised = theirs.add_noise(a, t, generator=one), ours.add_noise(b, t, generator=two)
            assert torch.equal(*noised)
        assert not (b == mask).any()


@pytest.mark.parametrize("schedule", ["beta(a=0.9, b=0.3)", "sine", TABLE, "beta(a=0.2, b=1)"])
@pytest.mark.parametrize("steps", [1, 5, 16, 40])
def test_another_schedule_reveals_what_its_plan_says(schedule, steps):
    ours = mdm.MaskedDiffusionScheduler(mask_token_id=9, schedule=schedule)
    ours.set_timesteps(steps, temperature=1.5)
    tokens = torch.full((2, 6, 6), 9)
    plan = mdm.get_schedule(schedule).plan(36, steps)
    for step, t in enumerate(ours.timesteps):
        before = tokens.clone()
        tokens = ours.step(
            logits(2, V, 6, 6, seed=step), t, tokens, generator=seeded(step)
        ).prev_sample
        known = before != 9
        assert torch.equal(tokens[known], before[known])
        revealed = ((before == 9) & (tokens != 9)).flatten(1).sum(1)
        assert revealed.tolist() == [int(plan[step])] * 2


def test_equal_confidences_do_not_break_the_plan():
    ours = mdm.MaskedDiffusionScheduler(mask_token_id=40, schedule="beta(a=0.9, b=0.3)")
    ours.set_timesteps(4, temperature=(0, 0))
    tokens, left = torch.full((2, 16), 40), []
    certain = torch.full((2, 16, V), -100.0)
    certain[..., 7] = 100
    for t in ours.timesteps:
        tokens = ours.step(certain, t, tokens).prev_sample
        left.append((tokens == 40).sum(1).tolist())
    planned = 16 - mdm.Beta(0.9, 0.3).plan(16, 4).cumsum(0)
    assert left == [[int(count)] * 2 for count in planned]


def test_the_mask_token_is_never_drawn():
    ours = mdm.MaskedDiffusionScheduler(mask_token_id=0)
    ours.set_timesteps(4)
    out = torch.full((2, V, 4, 4), -200.0)
    out[:, 0] = 200  # of probability one, all others zero in float32
    tokens = torch.zeros(2, 4, 4, dtype=torch.long)
    for t in ours.timesteps:
        tokens = ours.step(out, t, tokens, generator=seeded(0)).prev_sample
    assert not (tokens == 0).any()
    block = mdm.BlockMaskedDiffusionScheduler(block_length=4)
    block.set_timesteps(2)
    for temperature in (0.0, 1.0):
        tokens = torch.zeros(2, 4, dtype=torch.long)
        for step in range(2):
            out = torch.zeros(2, 4, V)
            out[..., 0] = 200
            tokens = block.step(
                out, step, tokens, mask_token_id=0, temperature=temperature
            ).prev_sample
        assert not (tokens == 0).any()


def test_nothing_given_is_changed_in_place():
    ours = mdm.MaskedDiffusionScheduler(mask_token_id=3)
    ours.set_timesteps(2)
    out, tokens = logits(1, V, 2, 2, seed=0), torch.full((1, 2, 2), 3)
    copies = out.clone(), tokens.clone()
    ours.step(out, 1, tokens)
    ours.add_noise(tokens, 1)
    assert torch.equal(out, copies[0])
    assert torch.equal(tokens, copies[1])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda s: s.step(torch.zeros(1, V, 2, 2), 0, torch.zeros(1, 2, 2).long()),
            InvalidValueError,
            "set_timesteps",
        ),
        (lambda s: s.add_noise(torch.zeros(1, 2, 2).long(), 0), InvalidValueError, "set_timesteps"),
        (lambda s: s.set_timesteps(0), InvalidValueError, "num_inference_steps"),
        (lambda s: s.set_timesteps(4, (1, 2, 3)), InvalidValueError, "temperature"),
        (lambda s: s.set_timesteps(4, (1, float("nan"))), InvalidValueError, "temperature"),
        (
            lambda s: s.set_timesteps(sigmas=[1.0, 0.5], mu=0.1),
            InvalidTypeError,
            "continuous latents",
        ),
        (lambda s: s.init_noise_sigma, InvalidTypeError, "continuous latents"),
    ],
)
def test_wrong_use(call, error, says):
    with pytest.raises(error, match=says):
        call(mdm.MaskedDiffusionScheduler(mask_token_id=9))


@pytest.mark.parametrize(
    ("out", "timestep", "tokens", "says"),
    [
        (torch.zeros(1, V, 2, 2), 4, torch.zeros(1, 2, 2).long(), "set_timesteps"),
        (torch.zeros(1, V, 2, 2), -1, torch.zeros(1, 2, 2).long(), "timestep"),
        (torch.zeros(1, V, 2, 2), 0.5, torch.zeros(1, 2, 2).long(), "timestep"),
        (torch.zeros(1, 4, 2, 2), 1, torch.zeros(1, 4, 2, 2), "continuous latents"),
        (torch.zeros(1, V, 2, 3), 1, torch.zeros(1, 2, 2).long(), "height"),
        (torch.zeros(1, V), 1, torch.zeros(1, 2, 2).long(), "height"),
        (torch.zeros(2, 4, V), 1, torch.zeros(1, 4).long(), "length"),
        (torch.zeros(1, V, 2, 2).long(), 1, torch.zeros(1, 2, 2).long(), "floating"),
        (torch.full((1, V, 2, 2), float("nan")), 1, torch.full((1, 2, 2), 9), "NaN"),
    ],
)
def test_wrong_step(out, timestep, tokens, says):
    ours = mdm.MaskedDiffusionScheduler(mask_token_id=9)
    ours.set_timesteps(4)
    with pytest.raises(MDMError, match=says):
        ours.step(out, timestep, tokens)
