"""generate and AutoModelForMaskedDiffusion on real transformers models with random weights."""

import functools
import inspect

import pytest
import torch
import transformers
from encoders import MASK, PAD, V, build
from tokenizers import Tokenizer, models, pre_tokenizers

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError, StorageError
from mdm_schedules.models import get_adapter


@pytest.fixture(scope="module", params=["bert", "roberta", "esm", "modernbert", "distilbert"])
def model(request):
    return build(request.param)


@pytest.fixture(scope="module")
def bert():
    return build("bert")


def prompts(batch=3, length=5):
    return torch.randint(5, V, (batch, length), generator=torch.Generator().manual_seed(1))


def test_generate_keeps_the_prompt_and_counts_passes(model):
    ids = prompts()
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    get_adapter(model).logits(ids, torch.tensor([0]), None)  # the one-time check of the head
    calls.clear()
    out = mdm.generate(
        model, ids, max_new_tokens=12, steps=4, schedule="beta(a=0.9, b=0.3)", mask_token_id=MASK
    )
    hook.remove()
    assert out.sequences.shape == (3, 17)
    assert torch.equal(out.sequences[:, :5], ids)
    assert out.prompt_length == 5
    assert not (out.sequences == MASK).any()
    assert out.nfe == 4 == len(calls)


def test_head_on_wanted_rows_equals_full_logits(model):
    ids = prompts()
    rows = torch.tensor([14, 3, 7])
    with torch.no_grad():
        full = model(input_ids=ids).logits.flatten(0, 1)[rows]
        some = get_adapter(model).logits(ids, rows, None)
    assert isinstance(some, torch.Tensor), (
        "the head should have been asked for the wanted rows only"
    )
    assert torch.allclose(some, full, atol=1e-5)


def test_a_head_that_cannot_take_rows_falls_back_to_full_logits(bert):
    class Whole(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, hidden):
            return self.inner(hidden) + hidden[..., :1].mean(dim=1, keepdim=True)

    model = build("bert")
    model.cls = Whole(model.cls)
    logits, rows = get_adapter(model).logits(prompts(), torch.tensor([2]), None)
    assert logits.shape == (15, V)
    assert rows.tolist() == [2]
    assert mdm.generate(model, prompts(), max_new_tokens=4, steps=2, mask_token_id=MASK).nfe == 2


def test_left_padded_prompts_write_what_they_write_alone(model):
    long, short = prompts(1, 7), prompts(1, 4)
    ids = torch.cat([long, torch.nn.functional.pad(short, (3, 0), value=PAD)])
    mask = (ids != PAD).long()
    options = {
        "max_new_tokens": 8,
        "steps": 8,
        "mask_token_id": MASK,
        "temperature": 1.0,
        "seed": 3,
    }
    # DistilBERT of transformers 4.57
    if "position_ids" not in inspect.signature(model.forward).parameters:
        with pytest.raises(InvalidValueError, match="position_ids"):
            mdm.generate(model, ids, mask, **options)
        return
    together = mdm.generate(model, ids, mask, **options).sequences
    assert torch.equal(together[0], mdm.generate(model, long, **options).sequences[0])
    assert torch.equal(together[1, 3:], mdm.generate(model, short, **options).sequences[0])


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
@pytest.mark.slow
def test_a_compiled_model_is_looked_into_as_it_is(kind):
    """OptimizedModule.forward takes (*args, **kwargs): neither positions nor padding show."""
    model = build(kind)
    compiled = torch.compile(model, backend="eager")
    long, short = prompts(1, 7), prompts(1, 4)
    long[0, 3] = PAD  # RoBERTa treats it as padding unless it gets the positions
    ids = torch.cat([long, torch.nn.functional.pad(short, (3, 0), value=PAD)])
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    options = {
        "max_new_tokens": 8,
        "steps": 4,
        "mask_token_id": MASK,
        "temperature": 1.0,
        "seed": 3,
    }
    for inputs in ((long,), (ids, mask)):
        expected = mdm.generate(model, *inputs, **options).sequences
        assert torch.equal(mdm.generate(compiled, *inputs, **options).sequences, expected)
    assert not get_adapter(compiled).head_takes_rows
    assert get_adapter(compiled).max_length == get_adapter(model).max_length


def test_esm_that_would_divide_by_zero_is_told_before_the_first_pass():
    model = build("esm")
    embeddings = model.esm.embeddings
    embeddings.token_dropout = True
    masks = torch.full((2, 6), MASK)
    masks[0, 0] = 7
    with pytest.raises(
        InvalidValueError, match=r"token_dropout.*embeddings\.token_dropout = False"
    ):
        mdm.generate(model, masks, mask_token_id=MASK)
    with pytest.raises(InvalidValueError, match="cfg_scale"):
        mdm.generate(model, prompts(), max_new_tokens=4, mask_token_id=MASK, cfg_scale=1.0)
    assert mdm.generate(model, masks[:1], mask_token_id=MASK).nfe == 5
    embeddings.token_dropout = False
    assert mdm.generate(model, masks, mask_token_id=MASK).nfe == 6


def test_blocks_fill_from_the_left_and_share_the_steps(bert):
    seen = []
    out = mdm.generate(
        bert,
        prompts(),
        max_new_tokens=10,
        block_length=4,
        steps=7,
        mask_token_id=MASK,
        callback=seen.append,
    )
    assert out.nfe == 7
    first = [info for info in seen if (info.tokens[:, 5:9] == MASK).any()]
    assert all((info.tokens[:, 9:] == MASK).all() for info in first)


def test_infilling_and_its_refusal(bert):
    ids = prompts()
    ids[0, 1], ids[2, 3] = MASK, MASK
    kept = ids.clone()
    out = mdm.generate(bert, ids, mask_token_id=MASK)
    assert torch.equal(ids, kept)
    assert out.sequences.shape == ids.shape
    assert torch.equal(out.sequences[ids != MASK], ids[ids != MASK])
    assert not (out.sequences == MASK).any()
    assert out.nfe_per_row.tolist() == [1, 0, 1]
    both = mdm.generate(bert, ids, max_new_tokens=6, block_length=3, steps=4, mask_token_id=MASK)
    assert not (both.sequences == MASK).any()
    with pytest.raises(InvalidValueError, match="infill"):
        mdm.generate(bert, ids, mask_token_id=MASK, infill=False)


def test_training_mode_is_put_back_and_dropout_is_off():
    model = build("bert").train()
    options = {"max_new_tokens": 6, "mask_token_id": MASK}
    first = mdm.generate(model, prompts(), **options).sequences
    assert torch.equal(first, mdm.generate(model, prompts(), **options).sequences)
    assert model.training


def test_auto_model_saves_and_loads_the_schedule(tmp_path, bert):
    bert.save_pretrained(tmp_path / "plain")
    core = Tokenizer(
        models.WordLevel({"[MASK]" if i == MASK else f"t{i}": i for i in range(V)}, unk_token="t1")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]")
    tokenizer.save_pretrained(tmp_path / "plain")
    model = mdm.AutoModelForMaskedDiffusion.from_pretrained(
        tmp_path / "plain", schedule="beta(a=0.9, b=0.3)"
    )
    assert isinstance(model, transformers.BertForMaskedLM)
    assert model.config.mask_token_id == MASK
    out = model.generate(prompts(), max_new_tokens=12, steps=4)
    assert out.plan[0].tolist() == mdm.Beta(0.9, 0.3).plan(12, 4).tolist()
    plain = mdm.generate(
        bert,
        prompts(),
        schedule="beta(0.9, 0.3)",
        steps=4,
        max_new_tokens=12,
        mask_token_id=MASK,
    )
    assert torch.equal(out.sequences, plain.sequences)
    model.save_pretrained(tmp_path / "tuned")
    again = mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path / "tuned")
    assert again.schedule == mdm.Beta(0.9, 0.3)
    assert again.config.architectures == ["BertForMaskedLM"]
    assert (
        mdm.AutoModelForMaskedDiffusion.from_pretrained(
            tmp_path / "tuned", schedule="sine"
        ).schedule
        == mdm.Sine()
    )
    assert torch.equal(
        again.generate(prompts(), max_new_tokens=12, steps=4).sequences, out.sequences
    )
    assert (
        type(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "tuned"))
        is transformers.BertForMaskedLM
    )


def test_models_that_are_no_masked_lm_are_refused(tmp_path):
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=V, n_positions=40)
    gpt = transformers.GPT2LMHeadModel(config)
    with pytest.raises(InvalidTypeError, match="no masked language model"):
        mdm.generate(gpt, prompts(), max_new_tokens=4, mask_token_id=MASK)
    with pytest.raises(InvalidTypeError, match="masked"):
        mdm.AutoModelForMaskedDiffusion.from_model(gpt)
    gpt.save_pretrained(tmp_path)
    with pytest.raises(
        InvalidTypeError,
        match=r"no masked language model.*trust_remote_code=True.*adapter='callable'",
    ):
        mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path)
    with pytest.raises(InvalidTypeError, match="no masked language model"):
        mdm.generate(object(), prompts(), max_new_tokens=4, mask_token_id=MASK)


def test_places_without_a_model_are_told_as_such(tmp_path, bert):
    load = mdm.AutoModelForMaskedDiffusion.from_pretrained
    for place in (tmp_path / "no", str(tmp_path / "no"), "./no", "no/such/folder", "~/models"):
        with pytest.raises(StorageError, match=r"there is no folder .* or a Hub id"):
            load(place)
    with pytest.raises(StorageError, match=r"holds no model.*config\.json"):
        load(tmp_path)
    with pytest.raises(InvalidTypeError, match="folder or a Hub id"):
        load(3)
    bert.save_pretrained(tmp_path / "deep")
    assert load(tmp_path, subfolder="deep").config.vocab_size == V


def test_a_profile_needs_positions_for_its_sequences():
    # counts its 40 positions from 1
    model = mdm.AutoModelForMaskedDiffusion.from_model(build("roberta"))
    calls = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(InvalidValueError, match="40 tokens, but the model has positions for 39"):
        mdm.InformationProfile.estimate(model, prompts(2, 40), mask_token_id=MASK)
    hook.remove()
    assert not calls
    assert (
        mdm.InformationProfile.estimate(
            model, prompts(2, 39), mask_token_id=MASK, counts=[0, 38]
        ).num_tokens
        == 39
    )


BAD = [
    ({}, "max_new_tokens"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"max_new_tokens": -1}, "max_new_tokens"),
    ({"max_new_tokens": 4, "mask_token_id": None}, "mask_token_id"),
    ({"max_new_tokens": 4, "mask_token_id": V}, "mask_token_id"),
    ({"max_new_tokens": 36}, "positions for 40"),
    ({"max_new_tokens": 4, "steps": 0}, "steps"),
    ({"max_new_tokens": 4, "steps": "4"}, "steps"),
    ({"max_new_tokens": 4, "block_length": 0}, "block_length"),
    ({"max_new_tokens": 4, "block_length": 1, "steps": 3}, "number of blocks"),
    ({"max_new_tokens": 4, "schedule": "betta(a=1, b=1)"}, "beta"),
    ({"max_new_tokens": 4, "schedule": "beta(a=1, c=1)"}, "'c'"),
    ({"max_new_tokens": 4, "schedule": 3.0}, "schedule must be"),
    ({"max_new_tokens": 4, "seed": [1]}, "seed"),
    ({"max_new_tokens": 4, "temperature": -1}, "temperature"),
    ({"max_new_tokens": 4, "input_ids": torch.zeros(0, 3, dtype=torch.long)}, "empty batch"),
    ({"max_new_tokens": 4, "input_ids": torch.full((1, 3), V)}, "49"),
    ({"max_new_tokens": 4, "input_ids": torch.full((1, 3), -1)}, "-1"),
    ({"max_new_tokens": 4, "input_ids": torch.zeros(2, 3)}, "LongTensor"),
    ({"max_new_tokens": 4, "input_ids": "text"}, "tokenizer=tokenizer"),
    ({"max_new_tokens": 4, "input_ids": torch.ones(3, dtype=torch.long)}, "LongTensor"),
    ({"max_new_tokens": 4, "attention_mask": torch.ones(3, 4)}, "attention_mask"),
    ({"max_new_tokens": 4, "attention_mask": torch.tensor([[1, 1, 1, 1, 0]] * 3)}, "padding_side"),
    ({"max_new_tokens": 4, "attention_mask": torch.full((3, 5), 2)}, "0 and 1"),
]


@pytest.mark.parametrize(("options", "says"), BAD)
def test_bad_input_is_told_before_the_first_pass(bert, options, says):
    calls = []
    hook = bert.register_forward_pre_hook(lambda *_: calls.append(1))
    options = {"input_ids": prompts(), "mask_token_id": MASK, **options}
    with pytest.raises(MDMError, match=says):
        mdm.generate(bert, **options)
    hook.remove()
    assert not calls


def test_an_unknown_keyword_is_not_swallowed(bert):
    with pytest.raises(TypeError, match="max_new_token"):
        mdm.generate(bert, prompts(), max_new_token=4)


def test_custom_generate_works_on_a_model_of_the_auto_class_as_on_others():
    model = mdm.AutoModelForMaskedDiffusion.from_model(build("bert"), "sine")
    model.config.mask_token_id = MASK
    options = {"max_new_tokens": 6, "steps": 3}
    want = model.generate(prompts(), **options).sequences
    got = model.generate(prompts(), custom_generate=mdm.generate, **options).sequences
    assert torch.equal(got, want)
    told = []

    class Streamer:
        def put(self, value):
            told.append(value)

        def end(self):
            told.append(None)

    streaming = functools.partial(mdm.generate, streamer=Streamer())
    got = model.generate(prompts()[:1], custom_generate=streaming, **options).sequences
    assert torch.equal(got, want[:1])
    assert told[-1] is None
    with pytest.raises(InvalidTypeError, match=r"custom_generate must be.*leave it out"):
        model.generate(prompts(), custom_generate="user/repo", **options)
