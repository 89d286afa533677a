"""Adapters of the model families: calls, the token that logits predict, the head on wanted rows."""

from functools import partial

import pytest
import torch
from encoders import build
from families import FAMILIES, HIDDEN, MASK, V

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from mdm_schedules.models import ModelAdapter, get_adapter, models


@pytest.fixture(params=FAMILIES)
def model(request):
    return FAMILIES[request.param]().eval()


def prompts(batch=2, length=6, seed=0):
    return torch.randint(0, MASK, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_it_is_found_by_model_type_and_knows_the_mask(model):
    bound = get_adapter(model)
    assert bound.name == {"Dream": "dream", "llada2_moe": "llada2"}.get(
        model.model_type, model.model_type
    )
    assert (bound.mask_token_id, bound.vocab_size, bound.max_length) == (MASK, V, 64)


def test_the_head_runs_on_wanted_rows_only(model):
    bound = get_adapter(model)
    ids = prompts()
    full = bound.forward(ids, None)
    rows = torch.tensor([0, 1, 5, 6, 10])
    assert bound.head_takes_rows
    model.calls.clear()
    hooked = []
    handle = bound.head.register_forward_hook(
        lambda module, args, output: hooked.append(output.shape)
    )
    some = bound.logits(ids, rows, None)
    handle.remove()
    assert hooked == [(1, 5, V)]
    # Dream's logits at a position speak of the token after it; of the first token nothing speaks
    # but itself
    source = torch.tensor([0, 0, 4, 6, 9]) if bound.shift else rows
    torch.testing.assert_close(some, full.flatten(0, 1)[source])


def test_full_logits_give_the_same_text(model, monkeypatch):
    options = {"max_new_tokens": 12, "steps": 5, "temperature": 1.0, "seed": 3}
    out = mdm.generate(model, prompts(), **options)
    monkeypatch.setattr(ModelAdapter, "head_takes_rows", False)
    assert torch.equal(mdm.generate(model, prompts(), **options).sequences, out.sequences)
    assert int(out.sequences[:, 6:].max()) < MASK


def test_prompts_padded_on_the_left_write_what_they_write_alone(model):
    long, short = prompts(1, 7), prompts(1, 3, seed=1)
    ids = torch.cat([long, torch.nn.functional.pad(short, (4, 0))])
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    options = {"max_new_tokens": 9, "steps": 6, "temperature": 1.0, "seed": 3}
    if model.model_type == "mdlm":  # takes no attention mask
        with pytest.raises(InvalidValueError, match="equal length"):
            mdm.generate(model, ids, mask, **options)
        return
    together = mdm.generate(model, ids, mask, **options).sequences
    assert torch.equal(together[0], mdm.generate(model, long, **options).sequences[0])
    assert torch.equal(together[1, 4:], mdm.generate(model, short, **options).sequences[0])


def test_first_tokens_that_are_masked_do_not_depend_on_padding(model):
    if model.model_type == "mdlm":
        pytest.skip("takes no padding")
    ids = torch.full((1, 4), MASK)
    padded = torch.cat([prompts(1, 8), torch.nn.functional.pad(ids, (4, 0))])
    mask = torch.ones_like(padded)
    mask[1, :4] = 0
    # by confidence equal positions tie, and the last bit decides, which depends on the processor
    options = {"steps": 4, "remasking": "left_to_right"}
    alone = mdm.generate(model, ids, **options).sequences
    assert torch.equal(mdm.generate(model, padded, mask, **options).sequences[1, 4:], alone[0])


def test_mdlm_is_told_the_masked_share():
    model = FAMILIES["mdlm"]().eval()
    model.times.clear()
    mdm.generate(model, prompts(1, 4), max_new_tokens=4, steps=2)
    # half of it masked, then a quarter; two more calls tried the head
    expected = -torch.log1p(-0.999 * torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(torch.cat(model.times[-2:]), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mdlm_of_half_precision_answers_in_its_own(dtype):
    """Its features of time are float32, which layers of half precision refuse."""
    model = FAMILIES["mdlm"]().to(dtype).eval()
    assert get_adapter(model).forward(prompts(), None).dtype == dtype


def test_llada2_writes_block_by_block_and_no_block_sees_a_later_one():
    model = FAMILIES["llada2"]().eval()
    seen = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0].shape[1]), with_kwargs=True
    )
    out = mdm.generate(model, prompts(1, 6), max_new_tokens=9, steps=9)
    handle.remove()
    # blocks of 4 from the sequence's start: columns 6-7, 8-11, 12-15; the last one is run whole
    assert sorted(set(seen[-9:])) == [8, 12, 16]
    assert out.sequences.shape == (1, 15)
    assert not (out.sequences == MASK).any()
    first = mdm.generate(model, prompts(1, 6), max_new_tokens=2, steps=2)
    assert torch.equal(out.sequences[:, :8], first.sequences)


def test_llada2_refuses_what_its_blocks_cannot_do():
    model = FAMILIES["llada2"]().eval()
    with pytest.raises(InvalidValueError, match="blocks of 4"):
        mdm.generate(model, prompts(), max_new_tokens=8, block_length=8)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 0] = 0
    with pytest.raises(InvalidValueError, match="modulo the model's block of 4"):
        mdm.generate(model, prompts(), mask, max_new_tokens=8)


def test_any_function_is_a_model():
    table = torch.randn(V, generator=torch.Generator().manual_seed(0))

    def function(tokens):
        return table.expand(*tokens.shape, V)

    out = mdm.generate(function, prompts(), max_new_tokens=3, steps=3, mask_token_id=MASK)
    assert (out.sequences[:, 6:] == int(table[:MASK].argmax())).all()
    with pytest.raises(InvalidValueError, match="mask_token_id"):
        mdm.generate(function, prompts(), max_new_tokens=3)
    with pytest.raises(InvalidTypeError, match="logits"):
        mdm.generate(lambda tokens: tokens, prompts(), max_new_tokens=3, mask_token_id=MASK)
    mask = torch.tensor([[1] * 6, [0] + [1] * 5])
    with pytest.raises(InvalidValueError, match="padding"):
        mdm.generate(function, prompts(), mask, max_new_tokens=3, mask_token_id=MASK)


def test_nothing_is_assumed_of_a_function():
    bound = get_adapter(lambda tokens: tokens)
    assert (bound.head, bound.vocab_size, bound.max_length, bound.device) == (None,) * 4
    assert not bound.head_takes_rows
    assert bound.cache_support().kind is None
    for model in (torch.nn.Linear, 3, "gpt"):
        with pytest.raises(InvalidTypeError):
            get_adapter(model)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(2, 6), r"got \[2, 6\]"),
        (torch.zeros(1, 6, V), rf"got \[1, 6, {V}\]"),
        (torch.zeros(3, 6, V), rf"got \[3, 6, {V}\]"),
        (torch.zeros(2, 5, V), rf"got \[2, 5, {V}\]"),
        (torch.zeros(2, 7, V), rf"got \[2, 7, {V}\]"),
        (torch.zeros(2, 6, V, 1), rf"got \[2, 6, {V}, 1\]"),
        (torch.zeros(2, 6, V).to_sparse(), r"got torch\.sparse_coo"),
        (torch.zeros(2, 6).to_sparse(), r"got torch\.sparse_coo"),
        (None, "got NoneType"),
        ([[0.0]], "got list"),
    ],
)
def test_what_a_function_returns_instead_of_logits_is_named(answer, said):
    with pytest.raises(InvalidTypeError, match=rf"must return logits \[2, 6, 'V'\], {said}"):
        get_adapter(lambda tokens: answer).forward(prompts(), None)


def test_a_function_may_write_into_the_tokens_that_it_is_given():
    table = torch.randn(30, V, generator=torch.Generator().manual_seed(0))

    def function(tokens, write):
        length = tokens.shape[1]
        if write:
            tokens.fill_(0)
        return table[None, :length]

    options = {"max_new_tokens": 6, "steps": 3, "mask_token_id": MASK}
    kept, written = (
        mdm.generate(partial(function, write=write), prompts(1), **options)
        for write in (False, True)
    )
    assert torch.equal(written.sequences, kept.sequences)
    assert written.drawn.tolist() == kept.drawn.tolist()


def test_a_vocabulary_that_changes_between_passes_is_named():
    sizes = iter(range(V, 0, -1))
    with pytest.raises(
        InvalidValueError, match=f"logits of {V - 1} tokens, after {V} in the first"
    ):
        mdm.generate(
            lambda tokens: torch.zeros(*tokens.shape, next(sizes)),
            prompts(1),
            max_new_tokens=6,
            steps=3,
            mask_token_id=5,
        )


def test_a_module_of_no_family_must_be_asked_for_by_name():
    module = torch.nn.Sequential(torch.nn.Embedding(V, HIDDEN), torch.nn.Linear(HIDDEN, V))
    with pytest.raises(InvalidTypeError, match="adapter='callable'"):
        mdm.generate(module, prompts(), max_new_tokens=2, mask_token_id=MASK)
    out = mdm.generate(module, prompts(), max_new_tokens=2, mask_token_id=MASK, adapter="callable")
    assert out.nfe == 2
    with pytest.raises(UnknownNameError, match="callable"):
        mdm.generate(module, prompts(), max_new_tokens=2, mask_token_id=MASK, adapter="calable")


@pytest.mark.slow
def test_a_compiled_model_is_asked_for_full_logits_and_writes_the_same():
    expected = mdm.generate(
        FAMILIES["llada"]().eval(), prompts(), max_new_tokens=6, steps=3
    ).sequences
    model = FAMILIES["llada"]().eval()
    model.compile(backend="eager")
    assert not get_adapter(model).head_takes_rows
    assert torch.equal(
        mdm.generate(model, prompts(), max_new_tokens=6, steps=3).sequences, expected
    )


def test_a_new_family_is_a_few_lines(monkeypatch):
    class Mine(ModelAdapter):
        name = "mine"

        @classmethod
        def accepts(cls, model):
            return False

        def forward(self, tokens, own):
            return self.model(tokens).logits

    model = FAMILIES["llada"]().eval()
    monkeypatch.setattr(models, "_local", {"mine": Mine})
    out = mdm.generate(model, prompts(), max_new_tokens=4, adapter="mine")
    assert torch.equal(out.sequences, mdm.generate(model, prompts(), max_new_tokens=4).sequences)


@pytest.mark.parametrize("kind", ["esm", "esmc", "eurobert"])
def test_special_tokens_of_a_protein_or_text_encoder_stay_out_where_suppressed(kind):
    model = build(kind)
    assert get_adapter(model).name == "masked_lm"
    ids = torch.randint(5, 50, (2, 4), generator=torch.Generator().manual_seed(0))
    letters = list(range(10, 30))
    out = mdm.generate(
        model,
        ids,
        max_new_tokens=12,
        steps=4,
        temperature=1.0,
        seed=0,
        suppress_tokens=[token for token in range(50) if token not in letters],
    )
    assert out.nfe == 4
    assert set(out[:, 4:].flatten().tolist()) <= set(letters)


def test_a_model_that_counts_padding_among_the_unmasked_tokens_is_not_padded():
    """ESM scales by the share of masks, which transformers 4.57 computes without attention mask."""
    model = build("esm")
    model.esm.embeddings.token_dropout = True
    bound = get_adapter(model)
    alone = torch.tensor([[9, 8, 4, 4]])
    padded = torch.nn.functional.pad(alone, (3, 0), value=7)
    mask = torch.nn.functional.pad(torch.ones_like(alone), (3, 0)).bool()
    here, beside = bound.forward(alone, None), bound.forward(padded, mask)[:, 3:]
    if torch.allclose(here, beside, atol=1e-4):
        bound.check_padding()
    else:
        with pytest.raises(InvalidValueError, match="reads the padding elsewhere"):
            bound.check_padding()
    rows = [[9, 8, 4, 4], [9, 4, 10, 11, 12, 4]]
    together = mdm.generate_distributed(model, rows, batch_size=2, max_new_tokens=0, steps=2)
    for row, record in zip(rows, together.records, strict=True):
        out = mdm.generate(model, torch.tensor([row]), max_new_tokens=0, steps=2)
        assert record["tokens"] == out[0].tolist()
