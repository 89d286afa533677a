"""Ids that a tokenizer has no token for, and special tokens, are kept out of answers everywhere."""

import json
from types import SimpleNamespace

import pytest
import torch
from encoders import build
from transformers import PreTrainedTokenizer

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM
from mdm_schedules.sampling.vocabulary import ids_without_token, special_ids, undrawable
from mdm_schedules.tuning import GenerationObjective

V = 50
OPTIONS = {"max_new_tokens": 12, "steps": 3, "temperature": 1.0, "remasking": "random", "seed": 0}


class Letters(PreTrainedTokenizer):
    """Written in Python, as Dream's is: `decode` raises at an id without a token."""

    vocab_files_names = {}  # noqa: RUF012 - as transformers declares it

    def __init__(self, **kwargs):
        self.codes = {chr(97 + i): i for i in range(26)} | {" ": 26}
        self.letters = {code: letter for letter, code in self.codes.items()}
        super().__init__(mask_token="<mask>", eos_token="<end>", pad_token="<end>", **kwargs)

    @property
    def vocab_size(self):
        return len(self.codes)

    def get_vocab(self):
        return self.codes | self.added_tokens_encoder

    def _tokenize(self, text, **kwargs):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.codes.get(token, 26)

    def _convert_id_to_token(self, index):
        return self.letters.get(index)

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)


@pytest.fixture(scope="module")
def tokenizer():
    return Letters()


@pytest.fixture(scope="module")
def model(tokenizer):
    model = build("bert")
    model.config.mask_token_id = tokenizer.mask_token_id
    return model


def test_ids_without_a_token_are_those_that_no_word_has(tokenizer):
    assert ids_without_token(tokenizer, V) == list(range(29, V))
    holes = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 2})
    assert ids_without_token(holes, 4) == [1, 3]
    assert ids_without_token(None, V) == []
    assert ids_without_token(tokenizer, None) == []
    assert ids_without_token(range(3), 5) == [3, 4]  # only a length
    assert ids_without_token(SimpleNamespace(), 5) == []


def test_special_tokens_are_those_with_a_role_and_those_added_as_special(tokenizer):
    more = Letters()
    more.add_tokens(["<turn>"], special_tokens=True)
    more.add_tokens(["word"])
    assert special_ids(more) == special_ids(tokenizer) | {29}
    assert undrawable(more, V, special=True, ends=[29]) == [27, 28, *range(31, V)]


def test_without_the_tokenizer_such_ids_are_drawn(model):
    out = mdm.generate(model, torch.zeros(1, 4, dtype=torch.long), **OPTIONS)
    assert int(out.sequences.max()) >= 29


def test_generate_never_draws_them(model, tokenizer):
    out = mdm.generate(model, ["abc", "de"], tokenizer=tokenizer, **OPTIONS)
    assert int(out.sequences.max()) < 29
    assert all(isinstance(text, str) for text in out.texts())


@pytest.mark.slow
def test_no_door_draws_them(model, tokenizer, tmp_path):
    prompts = ["abc", "def", "ghi", "jkl mno"]
    done = mdm.generate_distributed(model, prompts, tokenizer=tokenizer, batch_size=2, **OPTIONS)
    assert max(max(one["tokens"]) for one in done.records) < 29
    pipe = mdm.MaskedDiffusionPipeline(
        model, mdm.MaskedDiffusionScheduler(mask_token_id=tokenizer.mask_token_id), tokenizer
    )
    pipe.set_progress_bar_config(disable=True)
    given = {name: value for name, value in OPTIONS.items() if name != "steps"}
    assert int(pipe("abc", num_inference_steps=3, **given).sequences.max()) < 29
    given = {name: value for name, value in OPTIONS.items() if name != "seed"}
    lm = MaskedDiffusionLM(model, tokenizer, batch_size=2, **given)
    requests = [SimpleNamespace(args=(prompt, {"until": ["\n"]})) for prompt in prompts]
    assert all(len(text) <= 12 for text in lm.generate_until(requests, disable_tqdm=True))
    objective = GenerationObjective(
        model,
        [(prompt, "x") for prompt in prompts],
        "contains",
        tokenizer=tokenizer,
        **({name: value for name, value in given.items() if name != "steps"}),
    )
    assert int(objective.write([0, 1, 2, 3], mdm.get_schedule("sine"), 3).sequences.max()) < 29


def test_results_of_a_job_from_before_still_go_on(model, tokenizer, tmp_path):
    path = tmp_path / "out.jsonl"
    given = {"tokenizer": tokenizer, "output_path": path, **OPTIONS}
    mdm.generate_distributed(model, ["abc", "de"], **given)
    settings = json.loads((tmp_path / "out.jsonl.run.json").read_text())
    # what earlier versions wrote, too: neither the option nor the ids that the tokenizer rules out
    options = settings["fingerprint"]["options"]
    assert "suppress_special_tokens" not in options
    assert "suppress_tokens" not in options
    assert mdm.generate_distributed(model, ["abc", "de"], **given).done_before == 2


def test_special_tokens_are_kept_out_where_it_is_asked(model, tokenizer):
    given = {"tokenizer": tokenizer, "num_return_sequences": 16, **OPTIONS}
    free = mdm.generate(model, ["abc"], **given)
    out = mdm.generate(model, ["abc"], suppress_special_tokens=True, **given)
    ending = mdm.generate(
        model,
        ["abc"],
        suppress_special_tokens=True,
        eos_token_id=tokenizer.eos_token_id,
        **given,
    )
    end = tokenizer.eos_token_id
    assert end in free.sequences
    assert end not in out.sequences
    assert end in ending.sequences
    assert not set(out[:, 3:].flatten().tolist()) & special_ids(tokenizer)


def test_the_option_needs_the_tokenizer_and_its_own(model, tokenizer):
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(InvalidTypeError, match="tokenizer=tokenizer"):
        mdm.generate(model, ids, suppress_special_tokens=True, **OPTIONS)
    with pytest.raises(InvalidTypeError, match="suppress_special_tokens must be True or False"):
        mdm.MaskedDiffusionGenerationConfig(suppress_special_tokens=3)
    foreign = SimpleNamespace(get_vocab=lambda: {"a": 1000})
    with pytest.raises(InvalidValueError, match="none of the model's 50 ids"):
        mdm.generate(model, ids, tokenizer=foreign, **OPTIONS)
