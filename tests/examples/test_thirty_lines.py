"""`generate` writes the tokens that the thirty lines of examples/ write."""

import importlib.util
from pathlib import Path

import pytest
import torch
from encoders import small_bert

import mdm_schedules as mdm
from mdm_schedules.sampling.noise import POSITION, TOKEN, RowSeeds

EXAMPLE = Path(__file__).parents[2] / "examples/sampler_in_30_lines.py"
SPEC = importlib.util.spec_from_file_location("sampler_in_30_lines", EXAMPLE)
example = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(example)

V, MASK, BATCH, PROMPT, NEW, SEED = 60, 59, 3, 5, 24, 7


@pytest.fixture(scope="module")
def model():
    return small_bert(vocab_size=V)


def noise_of(tokens):
    """The numbers that a run with SEED draws by."""
    ours = torch.ones_like(tokens, dtype=torch.bool)
    noise = RowSeeds([SEED] * len(tokens), tokens, ours, distinct=True).noise
    row, position = torch.arange(len(tokens))[:, None], torch.arange(tokens.shape[1])[None]
    streams = {"token": TOKEN, "position": POSITION}
    return lambda use, step: noise.uniform(streams[use], step, row, position)


@pytest.mark.parametrize(("schedule", "block_length"), [("linear", NEW), ("beta(a=0.9, b=0.5)", 8)])
@pytest.mark.parametrize("order", ["low_confidence", "random"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_thirty_lines_write_the_tokens_of_generate(
    model, temperature, order, schedule, block_length
):
    prompt = torch.randint(0, MASK, (BATCH, PROMPT), generator=torch.Generator().manual_seed(1))
    blocks, steps = NEW // block_length, 12 // (NEW // block_length)
    tokens = torch.nn.functional.pad(prompt, (0, NEW), value=MASK)
    alpha = mdm.get_schedule(schedule).alpha
    plan = example.make_plan(alpha, block_length, steps)
    ends = [PROMPT + (block + 1) * block_length for block in range(blocks)]
    seen = []

    def logits(state):
        seen.append(state.clone())
        return model(state).logits

    written = example.fill(
        logits, tokens, MASK, ends, [plan] * blocks, order, temperature, noise_of(tokens)
    )
    out = mdm.generate(
        model,
        prompt,
        max_new_tokens=NEW,
        block_length=block_length,
        steps=steps * blocks,
        schedule=schedule,
        remasking=order,
        temperature=temperature,
        seed=SEED,
        mask_token_id=MASK,
        output_history=True,
    )
    assert torch.equal(written, out.sequences)
    # pass by pass, and not the same token everywhere
    assert all(torch.equal(a, b) for a, b in zip(seen[1:], out.history, strict=False))
    assert len(seen) == out.nfe == steps * blocks
    assert len(out.sequences[:, PROMPT:].unique()) > 3


@pytest.mark.parametrize(
    ("schedule", "masks", "steps"),
    [
        ("linear", 24, 7),
        ("linear", 5, 9),
        ("cosine", 24, 16),
        ("beta(a=1, b=0.2)", 60, 24),
        ("beta(a=0.2, b=1)", 60, 24),
    ],
)
def test_the_plan_of_the_thirty_lines_is_the_schedules(schedule, masks, steps):
    schedule = mdm.get_schedule(schedule)
    plan = schedule.plan(masks, steps)
    assert example.make_plan(schedule.alpha, masks, steps) == plan[plan > 0].tolist()
