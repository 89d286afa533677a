"""What the adapters of LLaDA, Dream and LLaDA2 give to the model, and what they know without it."""

from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, MASK, V

from mdm_schedules.models import get_adapter

IDS = torch.randint(0, MASK, (2, 11), generator=torch.Generator().manual_seed(0))
REAL = torch.ones(2, 11, dtype=torch.bool)
REAL[1, :4] = False
# positions count from a row's first token, and padding has those of the first
POSITIONS = [list(range(11)), [0, 0, 0, 0, *range(7)]]


def given(family, attention_mask):
    """The arguments of the model's forward, by name."""
    model, calls = FAMILIES[family]().eval(), []
    names = ("input_ids", "attention_mask", "position_ids")

    def note(module, args, kwargs):
        calls.append(dict(zip(names, args, strict=False)) | kwargs)

    with model.register_forward_pre_hook(note, with_kwargs=True):
        logits = get_adapter(model).forward(IDS, attention_mask)
    assert logits.shape == (2, 11, V)
    (call,) = calls
    assert torch.equal(call.pop("input_ids"), IDS)
    return call


def test_llada_is_given_whole_numbers_for_padding():
    assert given("llada", None) == {"attention_mask": None}
    mask = given("llada", REAL)["attention_mask"]
    assert mask.dtype == torch.int64
    assert mask.tolist() == REAL.tolist()


def test_dream_is_given_who_sees_whom_where_something_is_padded():
    assert given("dream", None) == {"attention_mask": "full", "position_ids": None}
    call = given("dream", REAL)
    assert call["position_ids"].tolist() == POSITIONS
    for row, seen in enumerate(call["attention_mask"][:, 0].tolist()):
        for query in range(11):
            for key in range(11):
                # a softmax over nothing would be NaN, so padding sees itself
                allowed = bool(REAL[row, query] and REAL[row, key]) or query == key
                assert seen[query][key] == allowed


def test_dreams_logits_speak_of_the_next_token():
    bound = get_adapter(FAMILIES["dream"]().eval())
    whole = bound.forward(IDS, None)
    logits = bound.logits(IDS, torch.tensor([5, 11 + 3]), None)
    torch.testing.assert_close(logits, torch.stack([whole[0, 4], whole[1, 2]]))


@pytest.mark.parametrize("padded", [False, True])
def test_llada2_is_given_a_mask_by_blocks_of_a_rows_own_positions(padded):
    call = given("llada2", REAL if padded else None)
    positions = POSITIONS if padded else [POSITIONS[0]] * 2
    assert call["position_ids"].tolist() == positions
    mask = call["attention_mask"]
    assert mask.shape == (2, 1, 11, 11)
    assert mask.unique().tolist() == [torch.finfo(torch.float32).min, 0]
    for row in range(2):
        for query in range(11):
            for key in range(11):
                real = not padded or bool(REAL[row, key])
                earlier = positions[row][query] // 4 >= positions[row][key] // 4
                seen = (real and earlier) or query == key
                assert (mask[row, 0, query, key] == 0) == seen


def known(model_type, vocabulary, **config):
    """The adapter of a model of which only this is known."""
    model = torch.nn.Module()
    model.config = SimpleNamespace(model_type=model_type, **config)
    model.get_input_embeddings = lambda: SimpleNamespace(num_embeddings=vocabulary)
    return get_adapter(model)


@pytest.mark.parametrize(
    ("model_type", "vocabulary", "configured", "mask"),
    [
        # LLaDA-8B and MMaDA-8B, LLaDA-MoE-7B, LLaDA2.0: as their generation code has it
        ("llada", 126464, None, 126336),
        ("llada", 134656, None, 126336),
        ("llada", 157184, None, 156895),
        ("llada2_moe", 157184, None, 156895),
        # the default of another model, which the released code leaves in the config
        ("llada", 126464, int("50256"), 126336),
        ("llada", 60, int("50256"), None),
        # what the config says goes first
        ("llada", 126464, 50255, 50255),
        ("llada", 126464, 126348, 126348),
        ("llada", 126464, 0, 0),
        ("llada2_moe", 157184, 7, 7),
        ("llada2_moe", 157184, 0, 0),
        # of other sizes nothing is known
        ("llada", 126463, None, None),
        ("llada", None, None, None),
        ("llada2_moe", 156895, None, None),
        ("llada2_moe", 156896, None, 156895),
        ("llada2_moe", 60, None, None),
        ("llada2_moe", None, None, None),
    ],
)
def test_the_mask_of_a_released_model_is_known(model_type, vocabulary, configured, mask):
    assert known(model_type, vocabulary, mask_token_id=configured).mask_token_id == mask
    if configured is None:
        assert known(model_type, vocabulary).mask_token_id == mask


def test_lengths_that_the_config_names():
    assert known("llada2_moe", 60, block_length=4).block_length == 4
    for config in ({}, {"block_length": None}):
        assert known("llada2_moe", 60, **config).block_length == 32
    assert known("llada", 60, max_sequence_length=64, max_position_embeddings=9).max_length == 64
    assert known("llada", 60, max_position_embeddings=9).max_length == 9
    assert known("llada", 60).max_length is None
    assert known("mdlm", 60).max_length is None
