"""The tokens of LLaDA's, dLLM's and Dream's own loops at temperature 0, on random models.

Those loops commit a mask token where a model predicts one, and fill it again later; our loop never
does. Rows in which the reference did so are left out, and enough other rows must remain.
"""

import math

import pytest
import reference_loops as reference
import torch
from families import MASK, Dream, LLaDA
from torch import nn

import mdm_schedules as mdm

pytestmark = pytest.mark.slow

NEW, ROWS, MODELS = 24, 8, 16


def random_model(kind, seed):
    model = kind().eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6, generator=generator)
    return model


def prompts(seed, batch=ROWS, length=6):
    return torch.randint(0, MASK, (batch, length), generator=torch.Generator().manual_seed(seed))


class Counting:
    """A model for a reference loop that records how many masks each row has before each pass."""

    def __init__(self, forward):
        self.forward, self.masks = forward, []

    def __call__(self, tokens):
        self.masks.append((tokens[:ROWS] == MASK).sum(1))
        with torch.no_grad():
            return self.forward(tokens).logits

    def without_masks(self, plan, sequences):
        """Return the rows in which every pass followed the plan, so that no mask was committed."""
        left = NEW - torch.tensor([0, *plan]).cumsum(0)
        return (torch.stack([*self.masks, (sequences == MASK).sum(1)], 1) == left).all(1)


def compare(kind, reference_of, passes, forward=lambda model: model, **options):
    """Return the share of rows compared, each of them equal, over models of random weights.

    `passes` is the plan of all blocks.
    """
    compared = 0
    for seed in range(MODELS):
        model, ids = random_model(kind, seed), prompts(seed)
        counting = Counting(forward(model))
        expected = reference_of(counting, ids)
        fair = counting.without_masks(passes, expected)
        out = mdm.generate(model, ids, max_new_tokens=NEW, **options)
        assert torch.equal(out.sequences[fair], expected[fair])
        # Dream's spends passes that reveal nothing
        assert out.nfe == sum(count > 0 for count in passes)
        assert not (out.sequences == MASK).any()
        compared += int(fair.sum())
    return compared / (ROWS * MODELS)


@pytest.mark.parametrize(("block", "steps"), [(24, 24), (24, 8), (8, 12), (8, 24), (4, 6)])
@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_llada(block, steps, cfg):
    options = {"steps": steps, "block_length": block, "cfg_scale": cfg}
    blocks = NEW // block
    plan = reference.even_plan(block, steps // blocks) * blocks
    compared = compare(
        LLaDA,
        lambda model, ids: reference.llada_generate(
            model, ids, mask_id=MASK, new_tokens=NEW, **options
        ),
        plan,
        **options,
    )
    assert compared > 0.9


def test_llada_steps_that_do_not_divide():
    plan = reference.even_plan(NEW, 7)
    compared = compare(
        LLaDA,
        lambda model, ids: reference.llada_generate(
            model, ids, mask_id=MASK, new_tokens=NEW, steps=7, block_length=NEW
        ),
        plan,
        plan=plan,
    )
    assert compared > 0.9


@pytest.mark.parametrize("alpha", [lambda t: 1 - t, lambda t: 1 - math.cos(math.pi / 2 * (1 - t))])
@pytest.mark.parametrize("block", [24, 8])
def test_dllm(alpha, block):
    plan = reference.dllm_plan(block, 6, alpha)
    compared = compare(
        LLaDA,
        lambda model, ids: reference.llada_generate(
            model, ids, mask_id=MASK, new_tokens=NEW, steps=0, block_length=block, plan=plan
        ),
        plan * (NEW // block),
        block_length=block,
        plan=plan,
    )
    assert compared > 0.9


@pytest.mark.parametrize(
    ("algorithm", "remasking"),
    [("maskgit_plus", "low_confidence"), ("topk_margin", "margin"), ("entropy", "entropy")],
)
@pytest.mark.parametrize("steps", [5, 8, 24])
def test_dream(algorithm, remasking, steps):
    plan = reference.dream_plan(NEW, steps)
    compared = compare(
        Dream,
        lambda model, ids: reference.dream_generate(
            model, ids, mask_id=MASK, steps=steps, new_tokens=NEW, algorithm=algorithm
        ),
        plan,
        forward=lambda model: lambda tokens: model(tokens, "full"),
        plan=plan,
        remasking=remasking,
    )
    assert compared > 0.9
