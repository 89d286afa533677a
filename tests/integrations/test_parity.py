"""The same tokens as LLaDA's, dLLM's and Dream's own loops at temperature 0, on models with random weights."""

import math

import pytest
import reference_loops as reference
import torch
from families import MASK, Dream, LLaDA, V

import mdm_schedules as mdm


def never_the_mask(model):
    """The originals return masks if the model predicts one; ours never draws it."""
    model.lm_head.bias.data[MASK] = -100
    return model.eval()


def prompts(batch, length=6):
    return torch.randint(0, MASK, (batch, length), generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("block", "steps"), [(24, 24), (24, 8), (8, 12), (8, 24), (4, 6)])
@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_llada(batch, block, steps, cfg):
    model, ids = never_the_mask(LLaDA()), prompts(batch)
    options = {"steps": steps, "block_length": block, "cfg_scale": cfg}
    expected = reference.llada_generate(lambda x: model(x).logits, ids, mask_id=MASK, new_tokens=24, **options)
    out = mdm.generate(model, ids, max_new_tokens=24, **options)
    assert torch.equal(out.sequences, expected)
    assert out.nfe == steps
    assert len(out.sequences.unique()) > 3


def test_llada_steps_that_do_not_divide():
    model, ids = never_the_mask(LLaDA()), prompts(2)
    plan = reference.even_plan(24, 7)
    expected = reference.llada_generate(
        lambda x: model(x).logits, ids, mask_id=MASK, new_tokens=24, steps=7, block_length=24
    )
    assert torch.equal(mdm.generate(model, ids, max_new_tokens=24, plan=plan).sequences, expected)


@pytest.mark.parametrize("alpha", [lambda t: 1 - t, lambda t: 1 - math.cos(math.pi / 2 * (1 - t))])
@pytest.mark.parametrize("block", [24, 8])
def test_dllm(alpha, block):
    model, ids = never_the_mask(LLaDA()), prompts(2)
    plan = reference.dllm_plan(block, 6, alpha)
    expected = reference.llada_generate(
        lambda x: model(x).logits, ids, mask_id=MASK, new_tokens=24, steps=0, block_length=block, plan=plan
    )
    out = mdm.generate(model, ids, max_new_tokens=24, block_length=block, plan=plan)
    assert torch.equal(out.sequences, expected)


@pytest.mark.parametrize(
    ("algorithm", "remasking"), [("maskgit_plus", "low_confidence"), ("topk_margin", "margin"), ("entropy", "entropy")]
)
@pytest.mark.parametrize(("batch", "steps"), [(1, 8), (2, 5), (2, 24)])
def test_dream(algorithm, remasking, batch, steps):
    model, ids = never_the_mask(Dream()), prompts(batch)
    expected = reference.dream_generate(
        lambda x: model(x, "full").logits, ids, mask_id=MASK, steps=steps, new_tokens=24, algorithm=algorithm
    )
    plan = reference.dream_plan(24, steps)
    out = mdm.generate(model, ids, max_new_tokens=24, plan=plan, remasking=remasking)
    assert torch.equal(out.sequences, expected)
    assert out.nfe == sum(count > 0 for count in plan)  # theirs spends passes that reveal nothing
    assert int(out.sequences.max()) < V - 1
