"""`BlockMaskedDiffusionScheduler`: the tokens of diffusers' own, quotas, and what is refused."""

import subprocess
import sys
import textwrap

import pytest
import torch
from diffusers import BlockRefinementScheduler
from pipelines import TABLE, V, logits, seeded

import mdm_schedules as mdm
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
)


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(("threshold", "editing"), [(1.1, None), (0.2, 0.1), (0.05, 0.0)])
def test_the_tokens_of_block_refinement(steps, temperature, threshold, editing):
    length, mask = 16, 20
    for dtype, filters in (
        (torch.float32, {}),
        (torch.float32, {"top_k": 5, "top_p": 0.8}),
        (torch.bfloat16, {}),
    ):
        theirs, ours = BlockRefinementScheduler(length), mdm.BlockMaskedDiffusionScheduler(length)
        theirs.set_timesteps(steps, device="cpu", block_length=length)
        ours.set_timesteps(steps, device="cpu", block_length=length)
        a = torch.full((3, length), mask)
        prompt = torch.arange(length) < 2
        a[:, :2] = 1
        b, one, two = a, seeded(1), seeded(1)
        settings = {
            "temperature": temperature,
            "threshold": threshold,
            "editing_threshold": editing,
            **filters,
        }
        for step in range(steps):
            out = logits(3, length, V, seed=step, mask=mask, dtype=dtype)
            out[0] = out[0, :1]  # equal confidences
            common = {"mask_token_id": mask, "prompt_mask": prompt, **settings}
            expected = theirs.step(out, step, a, generator=one, **common)
            got = ours.step(out, torch.tensor(step), b, generator=two, **common)
            a, b = expected.prev_sample, got.prev_sample
            assert torch.equal(a, b)
            assert torch.equal(expected.transfer_index, got.transfer_index)
            assert torch.equal(expected.editing_transfer_index, got.editing_transfer_index)
            drawn = got.sampled_probs > 0
            assert drawn[got.transfer_index].all()
            assert torch.equal(expected.sampled_tokens[drawn], got.sampled_tokens[drawn])
            assert torch.equal(expected.sampled_probs[drawn], got.sampled_probs[drawn])


@pytest.mark.parametrize("schedule", ["even", "linear", "beta(a=0.9, b=0.3)", TABLE])
@pytest.mark.parametrize("steps", [1, 5, 12, 30])
def test_a_block_is_filled_by_the_quotas_of_the_schedule(schedule, steps):
    ours = mdm.BlockMaskedDiffusionScheduler(12, threshold=2.0, schedule=schedule)
    ours.set_timesteps(steps)
    tokens, counts = torch.full((4, 12), 9), []
    for step in range(steps):
        out = ours.step(logits(4, 12, V, seed=step), step, tokens, mask_token_id=9)
        tokens = out.prev_sample
        counts.append(out.transfer_index.sum(1).tolist())
    assert not (tokens == 9).any()
    expected = ours.get_num_transfer_tokens(12, steps)
    if schedule != "even":
        assert torch.equal(expected, mdm.get_schedule(schedule).plan(12, steps))
    assert counts == [[int(quota)] * 4 for quota in expected]


def test_eos_as_in_diffusers_but_for_one_in_the_prompt():
    eos, mask = 1, 0
    draw = seeded(0)
    seen = set()
    for _ in range(200):
        x = torch.randint(0, 5, (3, 8), generator=draw)
        x[:, :3] = 4
        transfer = torch.rand(3, 4, generator=draw) < 0.7
        before = torch.tensor([False, False, True])
        arguments = (x, x[:, 4:], transfer, before.clone(), eos, mask, 3)
        expected = BlockRefinementScheduler.check_eos_finished(*arguments)
        assert torch.equal(
            mdm.BlockMaskedDiffusionScheduler.check_eos_finished(
                *arguments[:3], before, *arguments[4:]
            ),
            expected,
        )
        seen.add(tuple(expected.tolist()))
    assert len(seen) > 2
    x = torch.tensor([[eos, 4, 4, 2, eos, 0]])  # a chat turn that ended
    arguments = (
        x,
        x[:, 3:],
        torch.ones(1, 3, dtype=torch.bool),
        torch.tensor([False]),
        eos,
        mask,
        3,
    )
    assert mdm.BlockMaskedDiffusionScheduler.check_eos_finished(*arguments).item()


def test_wrong_use_of_blocks():
    ours = mdm.BlockMaskedDiffusionScheduler(8)
    out, tokens = torch.zeros(1, 8, V), torch.full((1, 8), 9)
    with pytest.raises(InvalidValueError, match=r"call scheduler\.set_timesteps"):
        ours.step(out, 0, tokens, mask_token_id=9)
    for wrong in ({"num_inference_steps": 0}, {"num_inference_steps": 4, "block_length": 0}):
        with pytest.raises(InvalidValueError):
            ours.set_timesteps(**wrong)
    ours.set_timesteps(4)
    with pytest.raises(
        InvalidValueError, match=r"would leave masks; call set_timesteps\(4, block_length=16\)"
    ):
        ours.step(torch.zeros(1, 16, V), 0, torch.full((1, 16), 9), mask_token_id=9)
    with pytest.raises(InvalidValueError, match="timestep 4 was not set"):
        ours.step(out, 4, tokens, mask_token_id=9)
    ours.step(out, 4, tokens * 0, mask_token_id=9)  # editing after the last mask is not counted
    for wrong in (
        {"threshold": float("nan")},
        {"editing_threshold": float("inf")},
        {"temperature": -1.0},
        {"sampling_method": "gready"},
    ):
        with pytest.raises(InvalidValueError):
            ours.step(out, 0, tokens, mask_token_id=9, **wrong)
    with pytest.raises(InvalidTypeError, match="token ids"):
        ours.step(out, 0, tokens.float(), mask_token_id=9)
    with pytest.raises(InvalidValueError, match="must be logits"):
        ours.step(out[:, :4], 0, tokens, mask_token_id=9)
    with pytest.raises(InvalidValueError, match="NaN"):
        ours.step(out * float("nan"), 0, tokens, mask_token_id=9)
    sine = mdm.BlockMaskedDiffusionScheduler(8, schedule="sine")
    sine.set_timesteps(4)
    with pytest.raises(InvalidValueError, match="DiffusionGemma"):
        sine.step(out, 0, tokens)

    class Short(mdm.BlockMaskedDiffusionScheduler):
        def get_num_transfer_tokens(self, block_length, num_inference_steps):
            return super().get_num_transfer_tokens(block_length - 1, num_inference_steps)

    with pytest.raises(InvalidValueError, match="sums to 7, but 8 tokens are masked"):
        Short(8).set_timesteps(4)


def test_uniform_corruption_is_left_to_diffusers():
    theirs, ours = BlockRefinementScheduler(8), mdm.BlockMaskedDiffusionScheduler(8)
    results = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(3)
        tokens, draw = torch.zeros(2, 8, dtype=torch.long), seeded(0)
        for step in range(3):
            tokens = scheduler.step(
                logits(2, 8, V, seed=step), step, tokens, generator=draw
            ).prev_sample
        results.append(tokens)
    assert torch.equal(*results)


@pytest.mark.slow
def test_the_proposed_contract_of_discrete_schedulers():
    """Timesteps are times and outputs share a class, where diffusers has that class."""
    code = """
        from dataclasses import dataclass
        import torch
        from diffusers.schedulers import scheduling_utils
        from diffusers.utils import BaseOutput

        @dataclass
        class DiscreteSchedulerOutput(BaseOutput):
            prev_sample: torch.Tensor
            pred_logits: torch.Tensor
            something_new: torch.Tensor

        scheduling_utils.DiscreteSchedulerOutput = DiscreteSchedulerOutput
        import mdm_schedules as mdm

        ours = mdm.BlockMaskedDiffusionScheduler.from_config(
            {"block_length": 8, "mask_token_id": 9, "temperature": 0.0, "threshold": 2.0}, schedule="sine")
        ours.set_timesteps(5)
        assert ours.timesteps.dtype == torch.float32 and ours.timesteps[0] == 1 and ours.timesteps[-1] > 0
        tokens = {"time": torch.full((2, 8), 9), "number": torch.full((2, 8), 9)}
        for step, t in enumerate(ours.timesteps):
            out = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(step))
            by_time = ours.step(out, t, tokens["time"])
            assert isinstance(by_time, DiscreteSchedulerOutput) and by_time.transfer_index.any()
            tokens = {"time": by_time.prev_sample, "number": ours.step(out, step, tokens["number"]).prev_sample}
            assert torch.equal(tokens["time"], tokens["number"])
        assert not (tokens["time"] == 9).any()
        print("works")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "works\n", done.stderr


def test_a_time_that_was_not_set():
    ours = mdm.BlockMaskedDiffusionScheduler(8)
    ours.set_timesteps(4)
    for time in (0.3, 0.0, 1.5):
        with pytest.raises(InvalidValueError, match="timestep"):
            ours.step(torch.zeros(1, 8, V), time, torch.full((1, 8), 9), mask_token_id=9)


# --- revoking in the block scheduler


def test_revoked_tokens_are_filled_again_within_the_plan():
    """As many masks are left after each step as the plan leaves; the prompt is never touched."""
    scheduler = mdm.BlockMaskedDiffusionScheduler(
        block_length=12, schedule="cosine", revoke_threshold=0.2
    )
    scheduler.set_timesteps(5)
    plan = scheduler.get_num_transfer_tokens(12, 5).tolist()
    tokens = torch.full((3, 12), 9)
    prompt = torch.zeros(12, dtype=torch.bool)
    prompt[:2] = True
    tokens[:, :2] = 4
    left, again = 10, 0
    for step, quota in enumerate(plan):
        before = tokens
        tokens = scheduler.step(
            logits(3, 12, V, seed=step),
            step,
            tokens,
            mask_token_id=9,
            threshold=1.1,
            prompt_mask=prompt,
        ).prev_sample
        again += int(((before != 9) & (tokens == 9)).sum())
        left = max(0, left - quota)
        assert ((tokens == 9).sum(1) == left).all()
        assert (tokens[:, :2] == 4).all()
    assert again > 0
    assert left == 0


def test_what_is_not_revoked_is_the_run_without():
    runs = []
    for revoke in (None, 0.0):
        scheduler = mdm.BlockMaskedDiffusionScheduler(block_length=8, revoke_threshold=revoke)
        scheduler.set_timesteps(4)
        tokens = torch.full((2, 8), 9)
        for step in range(4):
            out = logits(2, 8, V, seed=step)
            tokens = scheduler.step(out, step, tokens, mask_token_id=9).prev_sample
        runs.append(tokens)
    assert torch.equal(*runs)
    with pytest.raises(InvalidValueError, match="revoke_threshold"):
        mdm.BlockMaskedDiffusionScheduler(revoke_threshold=2.0)
