"""A hundred mistakes and habits of other stacks: each gets a message from which one can go on."""

import numpy as np
import pytest
import torch
from encoders import MASK, build
from transformers import GenerationConfig

import mdm_schedules as mdm
from mdm_schedules.checks import say_once
from mdm_schedules.errors import MDMError
from mdm_schedules.sampling.constraints import Truth
from mdm_schedules.sampling.options import OPTIONS

IDS = torch.tensor([[7, 8, 9]])
OK = {"max_new_tokens": 4, "steps": 2}

#: options that have another name here, or no meaning -> words of the message
NAMES = {
    # LLaDA and LLaDA2
    "gen_length": ["LLaDA", "max_new_tokens"],
    "mask_id": ["LLaDA", "mask_token_id"],
    "temp": ["temperature"],
    "logits_eos_inf": ["LLaDA", "suppress_special_tokens"],
    "confidence_eos_eot_inf": ["LLaDA", "suppress_special_tokens"],
    "unsupervised_cfg": ["cfg_scale"],
    "eos_early_stop": ["LLaDA2", "eos_token_id"],
    "editing_threshold": ["LLaDA2", "edit_threshold"],
    "minimal_topk": ["steps"],
    "steps_per_block": ["steps"],
    # Dream
    "alg": ["Dream", "remasking"],
    "alg_temp": ["Dream", "remasking='random'"],
    "eps": ["Dream", "schedule"],
    "diffusion_steps": ["Dream", "steps"],
    "generation_logits_hook_func": ["Dream", "logits_processor"],
    "generation_tokens_hook_func": ["Dream", "callback"],
    # dLLM and others of the field
    "block_size": ["dLLM", "block_length"],
    "stochastic_transfer": ["dLLM", "ancestral"],
    "right_shift_logits": ["dLLM", "adapter"],
    "begin_suppress_tokens": ["dLLM", "suppress_tokens"],
    "cfg_keep_tokens": ["dLLM", "cfg_scale"],
    "return_dict": ["dLLM", "output_history"],
    "remasking_strategy": ["SDAR", "remasking"],
    "confidence_threshold": ["dInfer", "threshold"],
    "dual_cache": ["Fast-dLLM"],
    "factor": ["Fast-dLLM", "factor(1.0)"],
    "kl_threshold": ["KLASS", "klass("],
    "noise_schedule": ["MMaDA", "schedule"],
    "cfg": ["MMaDA", "cfg_scale"],
    "num_steps": ["MDLM", "steps"],
    "sampler": ["MDLM", "ancestral"],
    # transformers
    "do_sample": ["transformers", "temperature"],
    "max_length": ["transformers", "max_new_tokens"],
    "min_new_tokens": ["transformers", "max_new_tokens"],
    "num_beams": ["transformers", "num_return_sequences"],
    "early_stopping": ["transformers", "beam"],
    "length_penalty": ["transformers", "beam"],
    "repetition_penalty": ["transformers", "logits_processor"],
    "no_repeat_ngram_size": ["transformers", "logits_processor"],
    "typical_p": ["transformers", "top_p"],
    "min_p": ["transformers", "top_p"],
    "bad_words_ids": ["transformers", "suppress_tokens"],
    "stop_strings": ["transformers", "eos_token_id"],
    "max_time": ["transformers", "steps"],
    "assistant_model": ["transformers", "left to right"],
    "inputs": ["input_ids"],
    "inputs_embeds": ["transformers", "input_ids"],
    "output_scores": ["transformers", "plan"],
    "custom_generate": ["custom_generate=mdm.generate"],
    # diffusers
    "num_inference_steps": ["diffusers", "steps"],
    "generator": ["diffusers", "seed"],
    "guidance_scale": ["diffusers", "cfg_scale"],
    "negative_prompt": ["diffusers", "cfg_scale"],
    "num_images_per_prompt": ["num_return_sequences"],
    "callback_on_step_end": ["diffusers", "callback"],
    "output_type": ["diffusers", "texts"],
    "scheduler": ["diffusers", "schedule"],
    "timesteps": ["diffusers", "plan="],
    "prompt": ["input_ids"],
    # servers and harnesses
    "max_tokens": ["vLLM", "max_new_tokens"],
    "max_gen_toks": ["lm-eval", "max_new_tokens"],
    "stop": ["vLLM", "eos_token_id"],
    "until": ["lm-eval", "eos_token_id"],
    "stop_token_ids": ["vLLM", "eos_token_id"],
    "n": ["vLLM", "num_return_sequences"],
    "frequency_penalty": ["logits_processor"],
    "batch_size": ["generate_distributed"],
    "device": ["model.to(device)"],
    "torch_dtype": ["from_pretrained"],
    "verbose": ["progress"],
    # slips
    "stpes": ["Did you mean 'steps'"],
    "shedule": ["Did you mean 'schedule'"],
    "temprature": ["Did you mean 'temperature'"],
}

#: options with a wrong value -> words of the message
VALUES = [
    ({"steps": 0}, [">= 1", "steps=16"]),
    ({"steps": 2.5}, ["integer", "2.5"]),
    ({"steps": "16"}, ["integer", "'16'"]),
    ({"max_new_tokens": -1}, ["[0, ", "-1"]),
    ({"max_new_tokens": None}, ["max_new_tokens is needed", "steps=16"]),
    ({"schedule": "sinus"}, ["Did you mean 'sine'"]),
    ({"schedule": "beta(a=0.9)"}, ["b"]),
    ({"schedule": 3}, ["3"]),
    ({"remasking": "maskgit_plus"}, ["Dream", "low_confidence"]),
    ({"remasking": "topk_margin"}, ["Dream", "margin"]),
    ({"remasking": "low_confidance"}, ["Did you mean 'low_confidence'"]),
    ({"remasking": ""}, ["no remasking policy is named ''", "low_confidence"]),
    ({"schedule": ""}, ["schedule", "''"]),
    ({"temperature": -1}, ["temperature", "[0"]),
    ({"temperature": "hot"}, ["temperature", "'hot'"]),
    ({"top_p": 1.5, "temperature": 1.0}, ["top_p", "1]"]),
    ({"block_length": 0}, ["block_length=32"]),
    ({"seed": [1, 2]}, ["one per row (1)"]),
    ({"seed": 1.5}, ["seed", "int"]),
    ({"plan": [1, 2], "schedule": "sine"}, ["not both", "schedule.plan"]),
    ({"threshold": 2.0}, ["threshold", "1"]),
    ({"eos_token_id": 10**6}, ["eos_token_id", "49"]),
    ({"suppress_tokens": "abc"}, ["list of token ids"]),
    ({"suppress_special_tokens": True}, ["tokenizer=tokenizer"]),
    ({"callback": 3}, ["callable"]),
    ({"attention_mask": torch.ones(1, 5)}, ["shape of input_ids", "(1, 3)"]),
    ({"attention_mask": torch.ones(1, 3).to_sparse()}, ["attention_mask must be a dense tensor"]),
    ({"eos_token_id": MASK}, ["eos_token_id and pad_token_id must not be the mask token"]),
]

#: prompts of a wrong kind -> words of the message
PROMPTS = [
    ("abc", ["tokenizer=tokenizer"]),
    (["abc", "de"], ["tokenizer=tokenizer"]),
    (["abc", [1, 2]], ["all be texts"]),
    ([[1, 2]], ["torch.tensor(input_ids)"]),
    (IDS[0], ["input_ids[None]"]),
    (IDS.float(), ["input_ids.long()"]),
    (IDS[None], ["dimension"]),
    (np.array([[1, 2]]), ["torch.as_tensor"]),
    (None, ["input_ids must be", "NoneType", "tokenizer("]),
    (torch.tensor([[7, 99]]), ["[0, 49]", "99"]),
    (torch.zeros(0, 3, dtype=torch.long), ["empty batch"]),
    (IDS.to_sparse(), ["input_ids must be a dense tensor", "sparse_coo"]),
    ({"input_ids": IDS, "token_type_ids": torch.ones(1, 3)}, ["token_type_ids"]),
]


@pytest.fixture(scope="module")
def model():
    model = build("bert")
    model.config.mask_token_id = MASK
    return model


def said(*args, **options):
    with pytest.raises(MDMError) as caught:
        mdm.generate(*args, **options)
    assert len(str(caught.value)) < 900
    return str(caught.value)


def test_there_are_a_hundred_of_them():
    assert len(NAMES) + len(VALUES) + len(PROMPTS) >= 100


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_elsewhere_says_how_to_go_on(model, name):
    text = said(model, IDS, **OK, **{name: 1})
    assert repr(name) in text
    for words in NAMES[name]:
        assert words in text


@pytest.mark.parametrize(("options", "words"), VALUES, ids=lambda value: str(value)[:40])
def test_a_wrong_value_says_what_is_allowed(model, options, words):
    text = said(model, IDS, **{**OK, **options})
    for word in words:
        assert word in text


class Stubborn:
    """Has no truth, no equality and no text."""

    __hash__ = None

    def __bool__(self):
        raise RuntimeError

    def __eq__(self, other):
        raise RuntimeError

    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"tokenizer"}))
def test_no_option_takes_what_has_no_truth_or_no_values(model, name):
    for value in (
        torch.tensor([1.5, 2.5]),
        np.array([1.5, 2.5]),
        torch.ones(2, device="meta"),
        torch.ones(2).to_sparse(),
        Stubborn(),
        {"a": 1},
        b"no",
    ):
        said(model, IDS, **{**OK, name: value})


@pytest.mark.parametrize(
    "name", [name for name, option in OPTIONS.items() if isinstance(option.check, Truth)]
)
def test_no_is_not_taken_for_yes(model, name):
    for value in ("no", "False", 0, 1, torch.tensor(False)):
        assert f"{name} must be True or False, got" in said(model, IDS, **{**OK, name: value})


@pytest.mark.parametrize(("prompt", "words"), PROMPTS, ids=lambda value: str(value)[:40])
def test_a_wrong_prompt_says_how_to_make_one(model, prompt, words):
    text = said(model, prompt, **OK)
    for word in words:
        assert word in text


def test_a_wrong_order_of_arguments_is_seen(model):
    assert "generate(model, input_ids" in said(IDS, model, **OK)
    assert "generate(model, input_ids" in said("bert-base-uncased", IDS, **OK)


# but those that transformers' own config holds
@pytest.mark.parametrize("name", sorted(NAMES.keys() - vars(GenerationConfig()).keys()))
def test_a_generation_config_knows_the_names_too(name):
    with pytest.raises(MDMError, match=name):
        mdm.MaskedDiffusionGenerationConfig(**{name: 1})


def test_filters_without_temperature_are_warned_about_once(model, caplog):
    for _ in range(2):
        mdm.generate(model, IDS, top_p=0.9123, top_k=7, **OK)
    assert caplog.text.count("top_k and top_p without a temperature") == 1


def test_padding_without_a_mask_is_warned_about_once(model, caplog):
    say_once.cache_clear()  # an earlier test may have had the same warning
    padded = torch.tensor([[0, 0, 0, 7], [7, 8, 9, 7]])
    mdm.generate(model, padded, padded != 0, **OK)
    mdm.generate(model, torch.tensor([[0, 7], [0, 8]]), **OK)  # may be meant
    assert "pad tokens" not in caplog.text
    for _ in range(2):
        mdm.generate(model, padded, **OK)
    assert caplog.text.count("begin with up to 3 pad tokens") == 1


def test_what_a_tokenizer_returns_is_a_prompt(model):
    mask = torch.tensor([[0, 1, 1]])
    encoding = {"input_ids": IDS, "attention_mask": mask, "token_type_ids": torch.zeros(1, 3)}
    expected = mdm.generate(model, IDS, mask, **OK)
    assert torch.equal(mdm.generate(model, encoding, **OK).sequences, expected.sequences)
