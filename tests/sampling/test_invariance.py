"""A row draws the same tokens alone and in any batch, also where it sits passes out; recorded
seeds repeat a run.
"""

import pytest
import torch

from mdm_schedules.sampling import DrawOptions, policies, sample

V, MASK = 20, 0
TABLE = torch.randn(V, V, generator=torch.Generator().manual_seed(0))


def denoiser(tokens, rows):
    """Logits that depend on all tokens up to the position, in order."""
    return TABLE[tokens].cumsum(1).flatten(0, 1), rows


def drawn(tokens, seed, **options):
    return sample(
        denoiser,
        tokens,
        mask_token_id=MASK,
        seed=seed,
        draw=DrawOptions(temperature=1.0),
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("remask", [0.0, 0.3])
@pytest.mark.parametrize("steps", [None, 5])
@pytest.mark.parametrize("remasking", policies.names())
def test_rows_with_fewer_masks_draw_as_they_do_alone(remasking, steps, remask):
    tokens = torch.tensor(
        [[1, 0, 3, 0, 0, 2, 7, 9], [0, 5, 0, 0, 0, 0, 0, 0], [4, 0, 4, 0, 4, 0, 4, 0]]
    )
    ends = [4, 8]
    steps = None if steps is None else [steps, steps]
    for seed in range(6):
        seeds = [seed, seed + 100, seed + 200]
        together = drawn(
            tokens, seeds, remasking=remasking, steps=steps, remask_fraction=remask, block_ends=ends
        )
        for row in range(3):
            one = slice(row, row + 1)
            alone = drawn(
                tokens[one],
                seeds[one],
                remasking=remasking,
                steps=steps,
                remask_fraction=remask,
                block_ends=ends,
            )
            assert torch.equal(alone.sequences[0], together.sequences[row])
            assert alone.nfe_per_row.tolist() == together.nfe_per_row[one].tolist()


def test_ancestral_without_steps_has_a_step_for_each_of_the_rows_own_masks():
    tokens = torch.full((2000, 8), 3)
    tokens[:, :2] = MASK
    tokens[-1] = MASK  # one full row
    out = drawn(tokens, 0, remasking="ancestral")
    first, second = out.plan[:-1, 0], out.plan[:-1, 1]
    assert ((first + second) == 2).all(), "two masks are gone after two steps"
    assert abs(float(first.double().mean()) - 1) < 4 * (0.5 / 2000) ** 0.5


@pytest.mark.parametrize("remasking", sorted({*policies.names()} - {"ancestral"}))
def test_a_row_that_a_plan_leaves_idle_draws_as_it_does_alone(remasking):
    tokens = torch.nn.functional.pad(torch.tensor([[1, 2, 3], [4, 5, 6]]), (0, 8), value=MASK)
    plan = torch.tensor([[2, 0, 0, 3, 3], [2, 1, 2, 2, 1]])
    for seed in range(10):
        together = drawn(
            tokens, [seed, seed + 1], remasking=remasking, remask_fraction=0.3, plan=plan
        )
        alone = drawn(tokens[:1], [seed], remasking=remasking, remask_fraction=0.3, plan=plan[:1])
        assert torch.equal(alone.sequences[0], together.sequences[0])


@pytest.mark.parametrize("seed", [None, 0, -1, 2**64 - 1])
def test_recorded_seeds_repeat_the_run_and_each_row_alone(seed):
    tokens = torch.tensor([[5, 0, 0, 0, 0, 0]] * 4 + [[6, 0, 0, 0, 0, 0]])
    out = drawn(tokens, seed, remasking="random")
    assert len(out.sequences.unique(dim=0)) == 5
    if seed is not None:
        assert out.seeds[0] == out.seeds[4] == seed, "the first of equal prompts keeps the seed"
    assert len(set(out.seeds[:4])) == 4
    again = drawn(tokens, out.seeds, remasking="random")
    assert torch.equal(again.sequences, out.sequences)
    assert again.seeds == out.seeds
    for row in range(5):
        alone = drawn(tokens[row : row + 1], [out.seeds[row]], remasking="random")
        assert torch.equal(alone.sequences[0], out.sequences[row])
