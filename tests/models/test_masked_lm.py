"""Masked LMs of transformers: positions that begin later, lengths, and models that refuse parts."""

import pytest
import torch
import transformers
from encoders import MASK, SIZES, build
from transformers import RobertaConfig, RobertaForMaskedLM

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models import get_adapter

IDS = torch.randint(10, 40, (2, 6), generator=torch.Generator().manual_seed(0))
REAL = torch.ones(2, 6, dtype=torch.bool)
REAL[1, :3] = False


def roberta(pad):
    sizes = {"vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": pad}
    return RobertaForMaskedLM(RobertaConfig(**SIZES, **sizes)).eval()


def given(model, attention_mask):
    calls = []
    with model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    ):
        get_adapter(model).forward(IDS, attention_mask)
    (call,) = calls
    assert torch.equal(call.pop("input_ids"), IDS)
    return call


@pytest.mark.parametrize(("kind", "first"), [("bert", 0), (1, 2), (5, 6)])
def test_positions_are_counted_from_a_rows_first_token(kind, first):
    """RoBERTa's begin behind that of its pad token."""
    model = build("bert") if kind == "bert" else roberta(kind)
    call = given(model, REAL)
    assert call["attention_mask"].tolist() == REAL.tolist()
    assert call["position_ids"].tolist() == [
        [first + place for place in range(6)],
        [first + place for place in (0, 0, 0, 0, 1, 2)],
    ]
    # an unpadded batch is called as transformers does it, but a pad token may stand in RoBERTa's
    # text, where it would be taken for padding
    plain = given(model, None)
    if kind == "bert":
        assert plain == {}
    else:
        assert plain.pop("position_ids").tolist() == [[first + place for place in range(6)]] * 2
        assert plain == {}


def test_the_length_is_what_the_positions_leave():
    assert get_adapter(build("bert")).max_length == 40
    assert get_adapter(roberta(1)).max_length == 38
    assert get_adapter(roberta(5)).max_length == 34
    # rotary positions have no table in which any were reserved
    assert get_adapter(build("esm")).max_length == 40


def test_esm_refuses_rows_of_masks_alone_where_it_divides_by_the_others():
    model = build("esm")
    bound, seen = get_adapter(model), torch.ones(1, 3, dtype=torch.bool)
    rows = {
        "masks": ([MASK] * 3, [1, 1, 1]),
        "masks behind padding": ([1, MASK, MASK], [0, 1, 1]),
        "masks behind a mask as padding": ([MASK] * 3, [0, 1, 1]),
        "a token before": ([MASK - 1, MASK, MASK], [1, 1, 1]),
        "a token behind": ([MASK, MASK, MASK + 1], [1, 1, 1]),
        "other tokens": ([MASK - 2, MASK - 1, MASK - 1], [1, 1, 1]),
    }
    for dropout in (False, True):
        model.esm.embeddings.token_dropout = dropout
        for name, (tokens, real) in rows.items():
            batch = torch.tensor([[9, 9, 9], tokens])
            mask = torch.cat([seen, torch.tensor([real]).bool()])
            if dropout and name.startswith("masks"):
                with pytest.raises(InvalidValueError, match="token_dropout = False"):
                    bound.check_tokens(batch, mask, MASK)
            else:
                bound.check_tokens(batch, mask, MASK)
            # another token as mask is none to the model
            for other in (MASK - 1, MASK + 1):
                bound.check_tokens(torch.full((1, 3), other), seen, other)
    model.esm.embeddings.mask_token_id = int("1000")  # as in a large vocabulary
    with pytest.raises(InvalidValueError, match="token_dropout = False"):
        bound.check_tokens(torch.full((1, 3), 1000), seen, int("1000"))


def hooked_bert():
    """One that could have a cache."""
    if get_adapter(build("bert")).cache_support().kind is None:
        pytest.skip(f"transformers {transformers.__version__} lets nobody replace BERT's attention")
    return build("bert")


@pytest.mark.parametrize(
    "error", [TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError]
)
def test_a_model_that_fails_on_a_part_of_a_sequence_has_no_cache(error):
    def refuse(module, args, kwargs):
        if kwargs["input_ids"].shape[1] == 3:
            raise error("three tokens")

    model = hooked_bert()
    model.register_forward_pre_hook(refuse, with_kwargs=True)
    support = get_adapter(model).cache_support()
    assert support.kind is None
    assert "answers otherwise for a part of the sequence" in support.reason


def test_a_model_that_asks_nobody_for_its_attention_has_no_cache():
    class Aside(torch.nn.Module):
        def forward(self, hidden, *args, **kwargs):
            return hidden, None

    model = hooked_bert()
    for layer in model.bert.encoder.layer:
        layer.attention = Aside()
    support = get_adapter(model).cache_support()
    assert support.kind is None
    assert "attention of its own" in support.reason


def test_a_model_that_answers_otherwise_for_a_part_has_no_cache():
    model = hooked_bert()

    def depends(module, args, kwargs, output):
        output.logits = output.logits + kwargs["input_ids"].shape[1] / 10
        return output

    model.register_forward_hook(depends, with_kwargs=True)
    assert get_adapter(model).cache_support().kind is None
