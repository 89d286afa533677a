"""Models under torch.compile, peft, and data parallel: they write what they write without."""

from types import SimpleNamespace

import pytest
import torch
from encoders import small_bert
from transformers import BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models import get_adapter
from mdm_schedules.models.wrappers import compiled, copies, unwrap

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
OPTIONS = {"max_new_tokens": 12, "steps": 5, "seed": 3, "mask_token_id": 3}
PROMPT = torch.tensor([[5, 6, 7, 8]])
PADDED = torch.tensor([[5, 6, 7, 8], [1, 1, 9, 10]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


def bert() -> BertForMaskedLM:
    return small_bert(**SIZES)


def roberta() -> RobertaForMaskedLM:
    torch.manual_seed(0)
    config = RobertaConfig(**SIZES, max_position_embeddings=18, pad_token_id=1)
    return RobertaForMaskedLM(config).eval()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["model", "body", "head"])
def test_a_model_that_is_compiled_in_place_after_it_was_used_writes_the_same(part):
    mdm.generate(torch.compile(bert(), backend="eager"), PROMPT, **OPTIONS)
    model = bert()
    expected = mdm.generate(model, PROMPT, **OPTIONS).sequences
    {"model": model, "body": model.bert, "head": model.cls}[part].compile(backend="eager")
    assert not get_adapter(model).head_takes_rows
    assert torch.equal(mdm.generate(model, PROMPT, **OPTIONS).sequences, expected)


def test_a_part_that_is_replaced_by_a_compiled_one_is_noticed():
    model = bert()
    expected = mdm.generate(model, PROMPT, **OPTIONS).sequences
    model.cls = torch.compile(model.cls, backend="eager")
    assert not get_adapter(model).head_takes_rows
    assert torch.equal(mdm.generate(model, PROMPT, **OPTIONS).sequences, expected)


@pytest.mark.parametrize("make", [bert, roberta])
def test_a_model_with_lora_weights_takes_padding_and_knows_its_length(make):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["query", "value"], r=2)
    model, plain = peft.get_peft_model(make(), config).eval(), make()
    assert get_adapter(model).max_length == get_adapter(plain).max_length
    assert get_adapter(model).head_takes_rows
    for inputs in ((PROMPT,), PADDED):  # lora starts as no change at all
        expected = mdm.generate(plain, *inputs, **OPTIONS).sequences
        assert torch.equal(mdm.generate(model, *inputs, **OPTIONS).sequences, expected)
    wrapped = torch.nn.DataParallel(model)
    assert get_adapter(wrapped).max_length == get_adapter(plain).max_length
    if make is roberta:
        with pytest.raises(InvalidValueError, match="16"):
            mdm.generate(model, PROMPT, **{**OPTIONS, "max_new_tokens": 13})


# --- what a wrapper is


def compiled_inside():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[1] = torch.compile(model[1], backend="eager")
    return model


def compiled_in_place(part):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    (model[part] if part is not None else model).compile(backend="eager")
    return model


def test_compiled_models_are_known_without_running_them():
    plain = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert not compiled(plain)
    assert not compiled(torch.nn.DataParallel(plain))
    assert not compiled(lambda tokens: tokens)
    for model in (
        torch.compile(plain, backend="eager"),
        compiled_inside(),
        compiled_in_place(None),
        compiled_in_place(0),
        compiled_in_place(1),
    ):
        assert compiled(model)


def test_the_model_is_found_inside_its_wrappers():
    plain = torch.nn.Linear(2, 2)
    assert unwrap(plain) is plain
    assert unwrap(torch.nn.DataParallel(plain)) is plain
    assert unwrap(torch.compile(plain, backend="eager")) is plain
    assert unwrap(torch.nn.DataParallel(torch.compile(plain, backend="eager"))) is plain
    # a model of one's own may have an attribute that is called as a wrapper's
    owner = torch.nn.Sequential()
    owner.module = plain
    assert unwrap(owner) is owner
    other = SimpleNamespace(_orig_mod="text", module=plain)
    assert unwrap(other) is other


def test_peft_models_are_known_by_the_name_of_their_module():
    plain = torch.nn.Linear(2, 2)
    kinds = {}
    for name in ("peft", "peft.peft_model", "peftlike", "mine.peft"):
        kind = type("PeftModel", (), {"get_base_model": lambda self: plain, "__module__": name})
        kinds[name] = unwrap(kind()) is plain
    assert kinds == {"peft": True, "peft.peft_model": True, "peftlike": False, "mine.peft": False}
    odd = type("Odd", (), {"get_base_model": lambda self: "text", "__module__": "peft"})()
    assert unwrap(odd) is odd
    bare = type("Bare", (), {"__module__": "peft"})()
    assert unwrap(bare) is bare


def test_only_data_parallel_models_compute_on_copies():
    plain = torch.nn.Linear(2, 2)
    assert not copies(plain)
    assert not copies(torch.compile(plain, backend="eager"))
    assert copies(torch.nn.DataParallel(plain))
    assert copies(torch.compile(torch.nn.DataParallel(plain), backend="eager"))
