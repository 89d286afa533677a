"""What generate offers beside the loop.

This covers configs, custom_generate, guidance, streaming, several answers and bad input.
"""

import contextlib
import functools
import io
from pathlib import Path

import pytest
import torch
import transformers
from families import FAMILIES, MASK, V
from generating import OPTIONS, bert, prompts
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError
from mdm_schedules.models import get_adapter


@pytest.fixture(scope="module")
def model():
    return bert()


@pytest.fixture(scope="module")
def tokenizer():
    words = {f"w{i}": i for i in range(V - 1)} | {"[MASK]": MASK}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, mask_token="[MASK]", pad_token="w0"
    )


# --- configs


def test_a_config_saves_loads_and_gives_the_options(model, tmp_path):
    expected = mdm.generate(model, prompts(), remasking="random", top_k=5, **OPTIONS).sequences
    config = mdm.MaskedDiffusionGenerationConfig(remasking="random", top_k=5, **OPTIONS)
    config.save_pretrained(tmp_path)
    loaded = mdm.MaskedDiffusionGenerationConfig.from_pretrained(tmp_path)
    assert loaded.masked_diffusion == config.masked_diffusion
    assert (loaded.steps, loaded.remasking, loaded.block_length) == (4, "random", None)
    assert torch.equal(mdm.generate(model, prompts(), generation_config=loaded).sequences, expected)
    # arguments take precedence over the config
    other = mdm.generate(model, prompts(), generation_config=loaded, steps=6)
    assert other.nfe == 6


def test_a_config_is_saved_and_loaded_with_the_model(tmp_path):
    mine = mdm.AutoModelForMaskedDiffusion.from_model(
        bert(transformers.BertForMaskedLM), "squared_sine"
    )
    mine.generation_config = mdm.MaskedDiffusionGenerationConfig(
        steps=3, max_new_tokens=8, remasking="random", seed=1
    )
    expected = mine.generate(prompts())
    assert expected.nfe == 3
    mine.save_pretrained(tmp_path)
    again = mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path)
    assert repr(again.schedule) == repr(mine.schedule)
    assert torch.equal(again.generate(prompts()).sequences, expected.sequences)


def test_a_plain_config_says_length_copies_and_sampling_only(model):
    config = GenerationConfig(
        max_new_tokens=8, do_sample=True, temperature=0.5, top_k=3, num_return_sequences=2
    )
    out = mdm.generate(model, prompts(), steps=4, seed=1, generation_config=config).sequences
    options = {
        "max_new_tokens": 8,
        "temperature": 0.5,
        "top_k": 3,
        "num_return_sequences": 2,
        "seed": 1,
        "steps": 4,
    }
    assert torch.equal(out, mdm.generate(model, prompts(), top_p=1.0, **options).sequences)
    greedy = mdm.generate(
        model, prompts(), steps=4, generation_config=GenerationConfig(max_new_tokens=8, top_k=2)
    )
    assert torch.equal(
        greedy.sequences, mdm.generate(model, prompts(), steps=4, max_new_tokens=8).sequences
    )


def test_bad_configs():
    with pytest.raises(InvalidTypeError, match="remasking"):
        mdm.MaskedDiffusionGenerationConfig(remaskin="random")
    with pytest.raises(MDMError, match="beta"):
        mdm.MaskedDiffusionGenerationConfig(schedule="betta(a=1, b=1)")
    with pytest.raises(InvalidTypeError, match="GenerationConfig"):
        mdm.generate(bert(), prompts(), max_new_tokens=2, generation_config={"steps": 3})
    with pytest.raises(MDMError, match="no preset"):
        mdm.MaskedDiffusionGenerationConfig(schedule="preset:llada-8b/mbbp")
    kept = mdm.MaskedDiffusionGenerationConfig(schedule=mdm.Beta(0.8, 0.3))
    assert mdm.get_schedule(kept.schedule) == mdm.Beta(0.8, 0.3)


# --- transformers' generate(custom_generate=...)


def test_a_preset_is_for_the_steps_of_the_call(model):
    for steps in (4, 16):
        wanted = mdm.get_schedule("preset:llada-8b/mbpp", steps=steps)
        plan = wanted.plan(16, steps).tolist()
        config = mdm.MaskedDiffusionGenerationConfig(schedule="preset:llada-8b/mbpp")
        for options in ({"schedule": "preset:llada-8b/mbpp"}, {"generation_config": config}):
            out = mdm.generate(model, prompts(1), max_new_tokens=16, steps=steps, **options)
            assert out.plan.tolist() == [plan]
        fixed = mdm.generate(
            model,
            prompts(1),
            max_new_tokens=16,
            steps=steps,
            schedule="preset:llada-8b/mbpp(steps=4)",
        )
        assert (
            fixed.plan.tolist()
            == mdm.get_schedule("preset:llada-8b/mbpp", steps=4).plan(16, steps)[None].tolist()
        )


def test_custom_generate_as_a_function(model):
    expected = mdm.generate(model, prompts(), **OPTIONS)
    out = model.generate(prompts(), custom_generate=mdm.generate, **OPTIONS)
    assert torch.equal(out.sequences, expected.sequences)
    config = mdm.MaskedDiffusionGenerationConfig(remasking="random", **OPTIONS)
    out = model.generate(prompts(), custom_generate=mdm.generate, generation_config=config)
    assert torch.equal(
        out.sequences, mdm.generate(model, prompts(), remasking="random", **OPTIONS).sequences
    )


def test_custom_generate_with_padding_and_several_answers(model):
    ids = prompts()
    ids[0, :2] = 0
    mask = (ids != 0).long()
    options = OPTIONS | {"num_return_sequences": 3}
    out = model.generate(
        ids, attention_mask=mask, custom_generate=mdm.generate, **options
    ).sequences
    assert torch.equal(out, mdm.generate(model, ids, mask, **options).sequences)
    assert out.shape == (6, 17)
    assert len(out.unique(dim=0)) == 6


def test_custom_generate_from_a_folder(model, tmp_path):
    folder = Path(__file__).parents[2] / "examples" / "custom_generate"
    out = model.generate(prompts(), custom_generate=str(folder), trust_remote_code=True, **OPTIONS)
    assert torch.equal(out.sequences, mdm.generate(model, prompts(), **OPTIONS).sequences)


def test_custom_generate_swallows_nothing(model):
    with pytest.raises(ValueError, match="blok_length"):
        model.generate(prompts(), custom_generate=mdm.generate, blok_length=4, **OPTIONS)
    criteria = transformers.StoppingCriteriaList([transformers.MaxTimeCriteria(1.0)])
    with pytest.raises(InvalidTypeError, match="MaxTimeCriteria"):
        model.generate(
            prompts(), custom_generate=mdm.generate, stopping_criteria=criteria, **OPTIONS
        )


def test_a_processor_of_transformers_acts_before_the_draw(model):
    banned = transformers.LogitsProcessorList(
        [transformers.SuppressTokensLogitsProcessor(list(range(30)))]
    )
    out = mdm.generate(model, prompts(), logits_processor=banned, **OPTIONS).sequences
    assert int(out[:, 5:].min()) >= 30
    again = model.generate(
        prompts(), custom_generate=mdm.generate, logits_processor=banned, **OPTIONS
    ).sequences
    assert torch.equal(out, again)


# --- guidance, copies, streaming, ends


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_guidance_hides_the_prompt_and_mixes_logits(family):
    model = FAMILIES[family]().eval()
    options = {"max_new_tokens": 8, "steps": 8, "temperature": 1.0, "seed": 1}

    def guided(tokens):
        blind = tokens.clone()
        blind[:, :5] = MASK
        conditional, unconditional = (
            get_adapter(model).forward(state, None) for state in (tokens, blind)
        )
        logits = unconditional + 2.5 * (conditional - unconditional)
        return torch.cat([logits[:, :1], logits[:, :-1]], 1) if family == "dream" else logits

    out = mdm.generate(model, prompts(), cfg_scale=1.5, **options)
    assert torch.equal(
        out.sequences, mdm.generate(guided, prompts(), mask_token_id=MASK, **options).sequences
    )
    assert out.nfe == 8
    assert not torch.equal(out.sequences, mdm.generate(model, prompts(), **options).sequences)


@pytest.mark.parametrize("family", ["llada", "dream", "llada2"])
def test_guidance_of_a_padded_batch_is_that_of_its_rows(family):
    model = FAMILIES[family]().eval()
    ids = torch.cat([prompts(1, 9), torch.nn.functional.pad(prompts(1, 5), (4, 0))])
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    options = {"max_new_tokens": 8, "steps": 8, "temperature": 1.0, "seed": 1, "cfg_scale": 1.0}
    together = mdm.generate(model, ids, mask, **options).sequences[1, 4:]
    assert torch.equal(together, mdm.generate(model, ids[1:, 4:], **options).sequences[0])


def test_several_answers_are_neighbours_and_keep_their_seeds(model):
    options = {"max_new_tokens": 8, "steps": 4, "temperature": 1.0}
    out = mdm.generate(model, prompts(), num_return_sequences=3, seed=[1, 2, 3, 4, 5, 6], **options)
    assert torch.equal(out.sequences[:, :5], prompts().repeat_interleave(3, 0))
    alone = mdm.generate(model, prompts()[1:], seed=[5], **options)
    assert torch.equal(out.sequences[4], alone.sequences[0])
    with pytest.raises(InvalidValueError, match="seed"):
        mdm.generate(model, prompts(), num_return_sequences=3, seed=[1, 2], **options)


class Recorder:
    def __init__(self, drafts):
        self.put_tokens, self.drafts, self.ended = [], [], False
        if drafts:
            self.put_draft = lambda value: self.drafts.append(value.clone())

    def put(self, value):
        self.put_tokens.append(value.flatten())

    def end(self):
        self.ended = True


@pytest.mark.parametrize("drafts", [True, False])
@pytest.mark.parametrize(
    "extra", [{}, {"block_length": 4}, {"remasking": "left_to_right"}, {"remask_fraction": 0.5}]
)
def test_a_streamer_gets_every_token_once_and_in_order(model, drafts, extra):
    streamer = Recorder(drafts)
    out = mdm.generate(model, prompts(1), streamer=streamer, **OPTIONS, **extra)
    assert torch.equal(torch.cat(streamer.put_tokens), out.sequences[0])
    assert streamer.ended
    assert bool(streamer.drafts) == drafts
    for draft in streamer.drafts:
        assert len(draft) <= 12


def test_the_streamers_of_transformers(model, tokenizer):
    for name in ("TextStreamer", "TextDiffusionStreamer"):
        if not hasattr(transformers, name):
            continue
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            streamer = getattr(transformers, name)(tokenizer, skip_prompt=True)
            call = functools.partial(mdm.generate, streamer=streamer)
            out = model.generate(prompts(1), custom_generate=call, **OPTIONS)
        assert tokenizer.decode(out.sequences[0, 5:]).split()[-1] in shown.getvalue()


def test_rows_end_at_eos_and_are_padded(model):
    options = {
        "max_new_tokens": 24,
        "block_length": 4,
        "remasking": "left_to_right",
        "temperature": 1.0,
        "seed": 2,
    }
    plain = mdm.generate(model, prompts(4), **options)
    counts = plain.sequences[:, 5:].flatten().bincount(minlength=V)
    eos = int(counts.argmax())
    out = mdm.generate(model, prompts(4), eos_token_id=eos, pad_token_id=1, **options)
    ended = 0
    for row, whole in zip(out.sequences, plain.sequences, strict=True):
        ends = (whole[5:] == eos).nonzero().flatten()
        stop = 5 + int(ends[0]) + 1 if len(ends) else len(whole)
        ended += stop < len(whole)
        assert torch.equal(row[:stop], whole[:stop])
        assert (row[stop:] == 1).all()
    assert ended
    assert int(out.nfe_per_row.sum()) < int(plain.nfe_per_row.sum())


def test_tokenizer_output_can_be_passed_as_it_is(model):
    out = mdm.generate(
        model, **{"input_ids": prompts(), "token_type_ids": torch.zeros(2, 5)}, **OPTIONS
    )
    assert torch.equal(out.sequences, mdm.generate(model, prompts(), **OPTIONS).sequences)
    with pytest.raises(InvalidValueError, match="token_type_ids"):
        mdm.generate(model, prompts(), token_type_ids=torch.ones(2, 5), **OPTIONS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"block_length": 0}, "block_length"),
        ({"seed": [1, 2, 3]}, "seed"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"cfg_scale": -1}, "cfg_scale"),
        ({"cfg_scale": float("nan")}, "cfg_scale"),
        ({"threshold": 2.0}, "threshold"),
        ({"threshold": 0.5, "remasking": "random"}, "low_confidence"),
        ({"eos_token_id": V}, "eos_token_id"),
        ({"eos_token_id": "x"}, "eos_token_id"),
        ({"pad_token_id": MASK, "eos_token_id": 1}, "mask"),
        ({"callback": 3}, "callback"),
        ({"streamer": 3}, "streamer"),
        ({"streamer": Recorder(True)}, "one sequence"),
        ({"remask_fraction": 2}, "remask_fraction"),
        ({"eos_token_id": MASK}, "mask"),
        ({"suppress_tokens": [V]}, "suppress_tokens"),
        ({"suppress_tokens": range(MASK)}, "nothing to draw"),
        ({"suppress_tokens": 3}, "suppress_tokens"),
        ({"infill": "no"}, "infill"),
        ({"adapter": 3}, "adapter"),
        ({"tempersture": 1.0}, "temperature"),
        ({"logits_processor": [1]}, "logits_processor"),
        ({"logits_processor": 1}, "logits_processor"),
    ],
)
def test_bad_input_is_told_before_the_first_pass(model, options, says):
    def never(*args):
        raise AssertionError("the model was called")

    handle = model.bert.register_forward_pre_hook(never)
    try:
        with pytest.raises(MDMError, match=says):
            mdm.generate(model, prompts(), max_new_tokens=4, **options)
    finally:
        handle.remove()
