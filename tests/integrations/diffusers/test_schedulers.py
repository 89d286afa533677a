"""Our diffusers schedulers against the two that they replace, on random logits; configs on disk."""

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from typing import ClassVar

import diffusers
import pytest
import torch
from diffusers import AmusedScheduler, BlockRefinementScheduler

import mdm_schedules as mdm
from mdm_schedules.errors import (
    FormatError,
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    UnknownNameError,
)

TABLE = mdm.Tabulated([0, 0.1, 0.2 + 1e-16, 0.7123456789012345, 1])
V = 32


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def logits(*shape, seed, axis=-1, mask=None, dtype=torch.float32):
    out = torch.randn(*shape, generator=seeded(seed)) * 2
    if mask is not None:
        out.movedim(axis, 0)[mask] = -1e4  # a trained model never predicts the mask
    return out.to(dtype)


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


# --- MaskedDiffusionScheduler


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


# --- BlockMaskedDiffusionScheduler


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


# --- configs


@pytest.mark.parametrize(
    "schedule", ["beta(a=0.9, b=0.3)", TABLE, mdm.EnergyOptimal(mdm.Beta(0.9, 0.3))]
)
@pytest.mark.parametrize("cls", [mdm.MaskedDiffusionScheduler, mdm.BlockMaskedDiffusionScheduler])
def test_a_schedule_survives_files_and_other_classes(cls, schedule, tmp_path):
    own = {"mask_token_id": 7} if cls is mdm.MaskedDiffusionScheduler else {"threshold": 0.6}
    theirs = AmusedScheduler if cls is mdm.MaskedDiffusionScheduler else BlockRefinementScheduler
    schedule = mdm.get_schedule(schedule)
    ours = cls(**own, schedule=schedule)
    ours.save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == cls.__name__
    )
    loaded = cls.from_pretrained(tmp_path)
    there = theirs.from_config(ours.config)
    back = cls.from_config(there.config)
    there.save_pretrained(tmp_path / "there")
    for one in (
        loaded,
        back,
        cls.from_pretrained(tmp_path / "there"),
        cls.from_config(loaded.config),
    ):
        assert one.schedule == schedule  # bit for bit: the knots are compared as floats
        assert one.config[next(iter(own))] == own[next(iter(own))]
    assert cls.from_pretrained(tmp_path, schedule="sine").schedule == mdm.Sine()


def test_a_scheduler_in_a_repository(tmp_path):
    """The files lie as in the Hub's cache, and are read without a network."""
    revision = "a" * 40
    repository = tmp_path / "models--somebody--schedule"
    mdm.MaskedDiffusionScheduler(mask_token_id=7, schedule=TABLE).save_pretrained(
        repository / "snapshots" / revision
    )
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(revision)
    loaded = mdm.MaskedDiffusionScheduler.from_pretrained(
        "somebody/schedule", cache_dir=tmp_path, local_files_only=True
    )
    assert loaded.schedule == TABLE


def test_configs_of_diffusers_keep_their_meaning():
    for name in ("cosine", "linear"):
        for theirs in (
            AmusedScheduler(7, name),
            AmusedScheduler(mask_token_id=7, masking_schedule=name),
        ):
            ours = mdm.MaskedDiffusionScheduler.from_config(theirs.config)
            assert ours.schedule == mdm.get_schedule(name)
            assert ours.config.mask_token_id == 7
            back = AmusedScheduler.from_config(ours.config)
            assert (back.config.masking_schedule, back.config.mask_token_id) == (name, 7)
    # AmusedInpaintPipeline writes into the config of its scheduler
    theirs = AmusedScheduler(7)
    theirs.register_to_config(masking_schedule="linear")
    assert mdm.MaskedDiffusionScheduler.from_config(theirs.config).schedule == mdm.Linear()
    assert (
        mdm.MaskedDiffusionScheduler.from_config(theirs.config, schedule="sine").schedule
        == mdm.Sine()
    )
    theirs = BlockRefinementScheduler(block_length=8, editing_threshold=0.3)
    ours = mdm.BlockMaskedDiffusionScheduler.from_config(theirs.config)
    assert (ours.config.block_length, ours.config.editing_threshold, ours.schedule) == (
        8,
        0.3,
        None,
    )


def test_schedules_that_cannot_be_kept(tmp_path):
    @dataclass(frozen=True, repr=False)
    class Unregistered(mdm.Linear):
        name: ClassVar[str] = "unregistered"

    for wrong in (Unregistered(), mdm.EnergyOptimal(lambda t: t)):
        with pytest.raises(FormatError, match="cannot be kept in a scheduler's config"):
            mdm.MaskedDiffusionScheduler(mask_token_id=7, schedule=wrong)
    with pytest.raises(UnknownNameError, match="cosine"):
        mdm.BlockMaskedDiffusionScheduler(schedule="cosin")
    with pytest.raises(UnknownNameError, match="cosine"):
        mdm.MaskedDiffusionScheduler(7, masking_schedule="cosin")
    # text in a file is a spec: nothing else is looked up or read
    mdm.Sine().save_pretrained(tmp_path / "sine")
    config = {"mask_token_id": 7, "schedule": str(tmp_path / "sine")}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(MDMError):
        mdm.MaskedDiffusionScheduler.from_pretrained(tmp_path)
    # a user may well name a folder
    assert mdm.MaskedDiffusionScheduler(**config).schedule == mdm.Sine()


def test_continuous_schedulers_are_refused():
    for theirs in (diffusers.DDIMScheduler(), diffusers.FlowMatchEulerDiscreteScheduler()):
        with pytest.raises(InvalidTypeError, match=r"no mask_token_id.*continuous latents"):
            mdm.MaskedDiffusionScheduler.from_config(theirs.config)
        with pytest.raises(
            InvalidTypeError, match=r"no block_length.*continuous latents.*is for LLaDA2Pipeline"
        ):
            mdm.BlockMaskedDiffusionScheduler.from_config(theirs.config)
    block = mdm.BlockMaskedDiffusionScheduler()
    for ask in (
        lambda: block.init_noise_sigma,
        lambda: block.set_timesteps(sigmas=[1.0, 0.5], mu=0.1),
        lambda: block.step(torch.zeros(1, 4, 2, 2), 1, torch.zeros(1, 4, 2, 2)),
    ):
        with pytest.raises(InvalidTypeError, match=r"continuous latents.*is for LLaDA2Pipeline"):
            ask()


def test_a_truncated_file_is_told_as_such(tmp_path):
    ours = mdm.MaskedDiffusionScheduler(mask_token_id=7, schedule=TABLE)
    ours.save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(
        (tmp_path / "scheduler_config.json").read_text()[:50]
    )
    with pytest.raises(OSError, match="valid JSON"):
        mdm.MaskedDiffusionScheduler.from_pretrained(tmp_path)
