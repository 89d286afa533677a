"""The policy of vLLM's dllm-plugin: the real package where it is installed, else a stand-in."""

import sys
from pathlib import Path

import pytest
import torch

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MissingExtraError
from mdm_schedules.integrations.vllm import MDMRemaskingPolicy

STANDINS = Path(__file__).parents[2] / "support/standins"
W, V, MASK = 32, 50, 1


@pytest.fixture
def plugin(monkeypatch):
    try:
        from vllm_dllm_plugin import remasking
    except ImportError:
        monkeypatch.syspath_prepend(str(STANDINS))
        for name in [name for name in sys.modules if name.split(".")[0] == "vllm_dllm_plugin"]:
            monkeypatch.delitem(sys.modules, name)
        from vllm_dllm_plugin import remasking
    yield remasking
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm_dllm_plugin"]:
        del sys.modules[name]


def logits(step):
    out = torch.randn(W, V, generator=torch.Generator().manual_seed(step)) * 3
    out[:, MASK] = -100
    return out


def fill(policy, **config):
    """All passes of a block; masks left after each, and the tokens."""
    block, left, step = (MASK,) * W, [], 0
    while True:
        given = {"mask_token_id": MASK, "denoise_step_index": step, **config}
        result = policy.apply(input_draft=block, logits=logits(step), remasking_config=given)
        if result.committed_token_ids:
            assert result.next_input_block == (MASK,) * W
            return [*left, 0], result.committed_token_ids
        block = result.next_input_block
        left.append(block.count(MASK))
        step += 1


def own_policy(threshold, steps):
    """The plugin's rule: equal shares of the surest, or all above the threshold if more."""
    block = torch.full((W,), MASK)
    for step in range(steps):
        probability, token = logits(step).softmax(-1).max(-1)
        score = torch.where(block == MASK, probability, -torch.inf)
        count = max(W // steps, int((score > threshold).sum()))
        order = score.sort(descending=True, stable=True).indices[:count]
        block[order] = torch.where(block[order] == MASK, token[order], block[order])
    return tuple(block.tolist())


@pytest.mark.parametrize("steps", [1, 4, 8, 16, 32])
def test_the_tokens_of_the_plugins_own_policy_with_its_own_schedule(plugin, steps):
    for threshold in (0.01, 0.5, 0.9):
        ours = MDMRemaskingPolicy(schedule="linear", steps=steps, threshold=threshold)
        assert fill(ours)[1] == own_policy(threshold, steps)
        same = MDMRemaskingPolicy(schedule="linear")
        config = {"denoise_steps": steps, "commit_confidence_threshold": threshold}
        assert fill(same, **config)[1] == own_policy(threshold, steps)


@pytest.mark.parametrize("schedule", ["beta(a=0.9, b=0.3)", "sine", "cosine"])
def test_another_schedule_fills_what_its_plan_says(plugin, schedule):
    left, tokens = fill(MDMRemaskingPolicy(schedule=schedule, steps=8))
    plan = mdm.get_schedule(schedule).plan(W, 8)
    assert left == (W - plan.cumsum(0)).tolist()
    assert MASK not in tokens


def test_a_drawn_block_follows_its_seed(plugin):
    def policy(seed):
        return MDMRemaskingPolicy(steps=4, temperature=1.0, seed=seed)

    assert fill(policy(3)) == fill(policy(3))
    assert fill(policy(3))[1] != fill(policy(4))[1]


def test_the_plugins_count_replaces_the_plan(plugin):
    left, _ = fill(MDMRemaskingPolicy(), num_transfer=20)
    assert left == [12, 0]


def test_bad_input(plugin):
    with pytest.raises(InvalidValueError, match="at most the 32 tokens of a block, got 33"):
        MDMRemaskingPolicy(steps=33)
    policy = MDMRemaskingPolicy(steps=4)
    config = {"mask_token_id": MASK, "denoise_step_index": 0}
    with pytest.raises(InvalidValueError, match="a pass needs 32 tokens and their logits, got 3"):
        policy.apply(input_draft=[MASK] * 3, logits=logits(0), remasking_config=config)
    with pytest.raises(InvalidTypeError, match="denoise_step_index must be an integer >= 0"):
        policy.apply(
            input_draft=[MASK] * W, logits=logits(0), remasking_config={"mask_token_id": MASK}
        )


def test_a_missing_plugin_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm_dllm_plugin", None)
    with pytest.raises(MissingExtraError, match=r"github.com/vllm-project/dllm-plugin.*2026-04"):
        MDMRemaskingPolicy(steps=4)
