"""UniformDiffusionScheduler against the one that it replaces, against its posterior, and in a pipeline."""

import inspect
import json
import math

import pytest
import torch
from diffusers import BlockRefinementScheduler, DiscreteDDIMScheduler
from scipy import stats

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, UnknownNameError

V = 32


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def logits(step, *shape):
    return torch.randn(*shape, V, generator=seeded(100 + step)) * 2


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("steps", [1, 6, 17])
def test_the_tokens_of_discrete_ddim_with_its_own_schedule(temperature, steps):
    theirs, ours = DiscreteDDIMScheduler(corrector_steps=1), mdm.UniformDiffusionScheduler()
    one, two = seeded(0), seeded(0)
    a = b = torch.randint(V, (3, 20), generator=seeded(1))
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(steps)
    assert torch.equal(theirs.timesteps, ours.timesteps)
    for step in range(steps):
        out, before = logits(step, 3, 20), b.clone()
        x = theirs.step(out, step, a, temperature=temperature, generator=one)
        y = ours.step(out, torch.tensor(step), b, temperature=temperature, generator=two)
        assert torch.equal(b, before)
        for name in ("prev_sample", "sampled_tokens", "sampled_probs", "pred_logits"):
            assert torch.equal(getattr(x, name), getattr(y, name))
        if step + 1 < steps:
            x = theirs.step_correct(out, step, x.prev_sample, generator=one)
            y = ours.step_correct(out, step, y.prev_sample, generator=two)
        a, b = x.prev_sample, y.prev_sample
        assert torch.equal(a, b)
        assert torch.equal(one.get_state(), two.get_state())


@pytest.mark.parametrize("schedule", ["beta(a=0.9, b=0.3)", "squared_sine", "polynomial(p=3)"])
def test_a_step_draws_from_the_posterior_of_the_schedule(schedule):
    """By Bayes on all K tokens, for a token that is the predicted one and for another."""
    size, count, steps, index = 5, 40_000, 4, 1
    ours = mdm.UniformDiffusionScheduler(schedule=schedule)
    ours.set_timesteps(steps)
    alpha = mdm.get_schedule(schedule).alpha
    before, after = alpha(index / steps), alpha((index + 1) / steps)
    clean, kept = 3, before / after
    for now in (3, 1):
        out = torch.full((1, count, size), -50.0)
        out[..., clean] = 50
        sample = torch.full((1, count), now)
        drawn = ours.step(out, index, sample, generator=seeded(now)).prev_sample[0]
        weights = [
            (kept * (now == x) + (1 - kept) / size) * (after * (x == clean) + (1 - after) / size)
            for x in range(size)
        ]
        expected = [count * weight / sum(weights) for weight in weights]
        assert stats.chisquare(drawn.bincount(minlength=size), expected).pvalue > 1e-4


def test_with_a_perfect_model_the_share_of_clean_tokens_follows_the_schedule():
    ours = mdm.UniformDiffusionScheduler(schedule="beta(a=0.9, b=0.3)")
    ours.set_timesteps(8)
    count = 20_000
    clean = torch.randint(V, (1, count), generator=seeded(2))
    out = torch.nn.functional.one_hot(clean, V) * 100.0
    sample = torch.randint(V, (1, count), generator=seeded(3))
    for step in range(8):
        sample = ours.step(out, step, sample, generator=seeded(step)).prev_sample
        alpha = mdm.Beta(0.9, 0.3).alpha((step + 1) / 8)
        share = alpha + (1 - alpha) / V
        error = math.sqrt(share * (1 - share) / count)
        assert abs((sample == clean).double().mean() - share) <= 5 * error + 1e-12


def test_a_single_token_moves_at_constant_speed_by_a_sine():
    """Of K tokens: the path on the sphere of roots is an arc, and its end is squared_sine's."""
    for size, tolerance in ((2, 0.26), (1000, 0.025), (262_144, 0.002)):
        t = torch.linspace(0, 1, 201, dtype=torch.float64)
        angle = (1 - t) * math.acos(size**-0.5)
        alpha = (size * angle.cos().square() - 1) / (size - 1)
        rest = (1 - alpha) / size
        roots = torch.stack([(alpha + rest).sqrt(), (rest * (size - 1)).clamp(min=0).sqrt()])
        speed = torch.acos((roots[:, 1:] * roots[:, :-1]).sum(0).clamp(max=1))
        torch.testing.assert_close(
            speed, torch.full_like(speed, float(speed[0])), rtol=1e-3, atol=0
        )
        assert float((alpha - mdm.SquaredSine().alpha(t)).abs().max()) < tolerance


def test_an_alpha_that_underflows_leaves_noise():
    ours = mdm.UniformDiffusionScheduler(schedule="polynomial(p=5000)")
    ours.set_timesteps(3)
    assert ours.schedule.alpha(1 / 3) == 0
    sample = torch.zeros(1, 9, dtype=torch.long)
    for step in range(3):
        sample = ours.step(logits(0, 1, 9), step, sample, generator=seeded(0)).prev_sample
    assert torch.equal(sample, logits(0, 1, 9).argmax(-1))


def test_configs(tmp_path):
    ours = mdm.UniformDiffusionScheduler.from_config(
        DiscreteDDIMScheduler(corrector_k=3).config, schedule=mdm.Beta(0.9, 0.3)
    )
    assert (ours.config.corrector_k, ours.schedule) == (3, mdm.Beta(0.9, 0.3))
    ours.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert (stored["_class_name"], stored["schedule"]) == (
        "UniformDiffusionScheduler", "beta(a=0.9, b=0.3)",
    )  # fmt: skip
    assert mdm.UniformDiffusionScheduler.from_pretrained(tmp_path).schedule == mdm.Beta(0.9, 0.3)
    block = mdm.UniformDiffusionScheduler.from_config(BlockRefinementScheduler().config)
    assert block.schedule == mdm.Linear()
    ours.schedule = "sine"
    assert ours.config.schedule == "sine()"


def test_bad_input():
    with pytest.raises(UnknownNameError, match="linear"):
        mdm.UniformDiffusionScheduler(schedule="lineer")
    ours = mdm.UniformDiffusionScheduler()
    with pytest.raises(InvalidValueError, match="num_inference_steps"):
        ours.set_timesteps(0)
    ours.set_timesteps(4)
    tokens = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(InvalidValueError, match=r"timestep must be .*\[0, 3\], got 4, as set by"):
        ours.step(logits(0, 1, 3), 4, tokens)
    with pytest.raises(InvalidTypeError, match="sample must be token ids"):
        ours.step(logits(0, 1, 3), 0, tokens.float())
    with pytest.raises(InvalidTypeError, match=r"model_output must be \[1, 3, vocabulary\]"):
        ours.step(logits(0, 1, 4), 0, tokens)
    with pytest.raises(InvalidTypeError, match="DiffusionGemmaPipeline"):
        mdm.UniformDiffusionScheduler.from_config({"num_train_timesteps": 1000})


class Processor:
    """As much of a processor as the pipeline asks for."""

    eos_token_id = None

    def apply_chat_template(self, messages, **options):
        return {"input_ids": torch.tensor([[5, 6, 7, 8]])}

    def batch_decode(self, rows, **options):
        return [" ".join(map(str, row.tolist())) for row in rows]


def test_in_diffusers_own_pipeline():
    from diffusers import DiffusionGemmaPipeline
    from gemma import CANVAS, build

    pipe = DiffusionGemmaPipeline(build(), DiscreteDDIMScheduler(), Processor())
    masks = pipe.model.model.decoder.create_diffusion_decoder_attention_mask
    if "past_key_values" not in inspect.signature(masks).parameters:
        pytest.skip("diffusers' pipeline passes what this transformers calls otherwise")
    pipe.set_progress_bar_config(disable=True)

    def write(scheduler):
        pipe.scheduler, canvases = scheduler, []

        def keep(pipe, step, timestep, tensors):
            canvases.append(tensors["canvas"].clone())
            return {}

        pipe(
            prompt="?", gen_length=2 * CANVAS, num_inference_steps=5, generator=seeded(0),
            output_type="seq", callback_on_step_end=keep, confidence_threshold=None,
            temperature=1.0,
        )  # fmt: skip
        return torch.cat(canvases), len(canvases)

    own, passes = write(DiscreteDDIMScheduler())
    assert passes == 10
    config = DiscreteDDIMScheduler().config
    assert torch.equal(write(mdm.UniformDiffusionScheduler.from_config(config))[0], own)
    other = mdm.UniformDiffusionScheduler.from_config(config, schedule="squared_sine")
    text, passes = write(other)
    assert passes == 10
    assert not torch.equal(text, own)
