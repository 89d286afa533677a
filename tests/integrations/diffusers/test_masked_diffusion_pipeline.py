"""`MaskedDiffusionPipeline`: text in, text out, and every way to load it."""

import copy
import sys

import pytest
import torch
import transformers
from diffusers import (
    AmusedScheduler,
)
from pipelines import TABLE, seeded

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError

OPTIONS = {"max_new_tokens": 12, "num_inference_steps": 4}


def test_text_in_text_out(pipe):
    prompts = ["the word1", "a word2 word3 word4"]
    out = pipe(prompts, **OPTIONS, seed=[3, 4], temperature=1.0)
    assert out.nfe == 4
    assert out.sequences.shape == (2, 12)
    assert all(len(text.split()) <= 12 for text in out.texts)
    for row, prompt in enumerate(prompts):
        alone = pipe(prompt, **OPTIONS, seed=[3 + row], temperature=1.0)
        assert alone.texts == out.texts[row : row + 1]
    ids = pipe.tokenizer(prompts[:1], return_tensors="pt").input_ids
    direct = mdm.generate(pipe.model, ids, max_new_tokens=12, steps=4, seed=[3], temperature=1.0, mask_token_id=2,
                          schedule="beta(a=0.9, b=0.3)")  # fmt: skip
    assert torch.equal(direct.sequences[:, 2:], out.sequences[:1])
    sequences, texts, nfe = pipe(input_ids=ids, **OPTIONS, output_type="seq", return_dict=False)
    assert (sequences.shape, texts, nfe) == ((1, 12), None, 4)


def test_the_schedule_is_the_schedulers(pipe):
    before = pipe("the", **OPTIONS).sequences
    pipe.scheduler = mdm.MaskedDiffusionScheduler.from_config(
        pipe.scheduler.config, schedule="sine"
    )
    seen = []
    out = pipe(
        "the",
        **OPTIONS,
        callback_on_step_end=lambda *arguments: seen.append(arguments),
        callback_on_step_end_tensor_inputs=["revealed", "tokens"],
    )
    assert [step[1:3] for step in seen] == [(0, 3), (1, 2), (2, 1), (3, 0)]
    assert [int(step[3]["revealed"].sum()) for step in seen] == mdm.Sine().plan(12, 4).tolist()
    assert torch.equal(seen[-1][3]["tokens"][:, 1:], out.sequences)
    assert seen[0][0] is pipe
    assert not torch.equal(out.sequences, before)


def test_masks_in_the_prompt_are_filled_and_the_prompt_is_returned(pipe):
    out = pipe(["the [MASK] word1 [MASK]", "[MASK] a"], num_inference_steps=2)
    assert out.texts[0].split()[::2] == ["the", "word1"]
    assert len(out.texts[0].split()) == 4
    assert out.texts[1].split()[1] == "a"
    assert out.nfe == 2


def test_several_answers_to_a_prompt_with_masks(pipe):
    prompts = ["the [MASK] word1 [MASK]", "[MASK] a"]  # the second is padded
    words_only = pipe.tokenizer.all_special_ids  # never drawn, for they would not be shown
    out = pipe(prompts, num_return_sequences=3, temperature=2.0, seed=1, suppress_tokens=words_only)
    assert [text.split()[::2] for text in out.texts[:3]] == [["the", "word1"]] * 3
    assert [text.split()[1] for text in out.texts[3:]] == ["a"] * 3
    assert [len(text.split()) for text in out.texts] == [4] * 3 + [2] * 3


def test_a_plan_in_place_of_the_schedule(pipe):
    assert pipe("the", max_new_tokens=12, plan=[6, 6]).nfe == 2


def test_a_generator_seeds_and_moves_on(pipe):
    draw = {**OPTIONS, "temperature": 2.0}
    generator = seeded(5)
    first, second = (
        pipe("the", generator=generator, **draw),
        pipe("the", generator=generator, **draw),
    )
    assert torch.equal(first.sequences, pipe("the", generator=seeded(5), **draw).sequences)
    assert not torch.equal(first.sequences, second.sequences)
    pair = pipe(["the", "the"], generator=[seeded(5), seeded(6)], **draw)
    assert torch.equal(pair.sequences[:1], pipe("the", generator=[seeded(5)], **draw).sequences)


def test_chat_templates(pipe, text_model):
    tokenizer = text_model[1]
    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    template += "{% if add_generation_prompt %}some{% endif %}"
    chats = [[{"role": "the", "content": "word1"}], [{"role": "a", "content": "word2 word3"}]]
    with pytest.raises(InvalidValueError, match="no chat template"):
        pipe(messages=chats, **OPTIONS)
    tokenizer.chat_template = template
    try:
        plain = pipe(["the word1 some", "a word2 word3 some"], use_chat_template=False, **OPTIONS)
        assert torch.equal(pipe(messages=chats, **OPTIONS).sequences, plain.sequences)
        assert torch.equal(pipe(messages=chats[0], **OPTIONS).sequences, plain.sequences[:1])
        wrapped = pipe(["word1", "word2"], **OPTIONS)
        expected = pipe(["user word1 some", "user word2 some"], use_chat_template=False, **OPTIONS)
        assert torch.equal(wrapped.sequences, expected.sequences)
    finally:
        tokenizer.chat_template = None


def test_text_ends_at_the_first_eos(pipe):
    rows = pipe._decode(torch.tensor([[5, 6, 3, 7], [5, 6, 7, 8]]), None, False)
    assert [len(row.split()) for row in rows] == [2, 4]


def test_progress_is_shown_as_set(pipe, capsys):
    pipe("the", **OPTIONS)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(desc="writing", disable=False)
    pipe("the", **OPTIONS)
    assert "writing" in capsys.readouterr().err


def test_saved_and_loaded(pipe, text_model, tmp_path):
    pipe.scheduler = mdm.MaskedDiffusionScheduler.from_config(pipe.scheduler.config, schedule=TABLE)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = mdm.MaskedDiffusionPipeline.from_pretrained(
        tmp_path / "pipe", torch_dtype=torch.float32
    )
    loaded.set_progress_bar_config(disable=True)
    assert loaded.scheduler.schedule == TABLE
    assert loaded("the", **OPTIONS).texts == pipe("the", **OPTIONS).texts
    assert (
        mdm.MaskedDiffusionPipeline.from_pretrained(
            tmp_path / "pipe", schedule="sine"
        ).scheduler.schedule
        == mdm.Sine()
    )
    # a model as transformers saves it, with and without a schedule of its own
    model, tokenizer = text_model
    transformers.BertForMaskedLM.save_pretrained(model, tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert (
        mdm.MaskedDiffusionPipeline.from_pretrained(tmp_path / "model").scheduler.schedule
        == mdm.Linear()
    )
    TABLE.save_pretrained(tmp_path / "model")
    again = mdm.MaskedDiffusionPipeline.from_pretrained(str(tmp_path / "model"))
    assert (again.scheduler.schedule, again.scheduler.config.mask_token_id) == (TABLE, 2)
    scheduler = mdm.MaskedDiffusionScheduler(2, "sine")
    given = mdm.MaskedDiffusionPipeline.from_pretrained(
        tmp_path / "model", model=model, tokenizer=None, scheduler=scheduler
    )
    assert (given.model, given.tokenizer, given.scheduler) == (model, None, scheduler)
    with pytest.raises(OSError, match="cached"):
        mdm.MaskedDiffusionPipeline.from_pretrained("somebody/nowhere")


def test_it_is_said_that_a_carried_schedule_is_used_only_where_it_is(
    pipe, text_model, tmp_path, caplog
):
    model, tokenizer = text_model
    load = mdm.MaskedDiffusionPipeline.from_pretrained
    transformers.BertForMaskedLM.save_pretrained(model, tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    mdm.Linear().save_pretrained(tmp_path / "model")
    assert load(tmp_path / "model").scheduler.schedule == mdm.Linear()
    mdm.Beta(0.6, 0.4).save_pretrained(tmp_path / "model")
    assert load(tmp_path / "model", schedule="sine").model.schedule == mdm.Sine()
    pipe = mdm.MaskedDiffusionPipeline(
        load(tmp_path / "model", schedule="cosine").model, pipe.scheduler, tokenizer
    )
    pipe.scheduler = mdm.MaskedDiffusionScheduler.from_config(pipe.scheduler.config, schedule=TABLE)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe")
    assert loaded.scheduler.schedule == loaded.model.schedule == TABLE
    assert load(tmp_path / "pipe", schedule="sine").scheduler.schedule == mdm.Sine()
    assert "carries the schedule" not in caplog.text
    assert load(tmp_path / "model").scheduler.schedule == mdm.Beta(0.6, 0.4)
    assert caplog.text.count("model carries the schedule beta(a=0.6, b=0.4), which is used") == 1


def test_loaded_from_a_repository(pipe, text_model, tmp_path):
    """The files of a pipeline and of a model lie as in the Hub's cache."""
    for name, save in (("pipe", pipe), ("model", text_model[0])):
        repository = tmp_path / f"models--somebody--{name}"
        save.save_pretrained(repository / "snapshots" / ("a" * 40))
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text("a" * 40)
    text_model[1].save_pretrained(repository / "snapshots" / ("a" * 40))
    options = {"cache_dir": tmp_path, "local_files_only": True, "revision": "main"}
    loaded = mdm.MaskedDiffusionPipeline.from_pretrained("somebody/pipe", **options)
    again = mdm.MaskedDiffusionPipeline.from_pretrained(
        "somebody/model", schedule=loaded.scheduler.schedule, **options
    )
    for one in (loaded, again):
        one.set_progress_bar_config(disable=True)
        assert one.scheduler.schedule == mdm.Beta(0.9, 0.3)
        assert one("the", **OPTIONS).texts == pipe("the", **OPTIONS).texts


def test_hooks_of_offloading_are_obeyed(pipe):
    """The hook is that of enable_model_cpu_offload, with the CPU as the device of computation."""
    from accelerate import cpu_offload, cpu_offload_with_hook

    expected = pipe("the", **OPTIONS).sequences
    pipe.model = copy.deepcopy(pipe.model)
    _, hook = cpu_offload_with_hook(pipe.model, torch.device("cpu"))
    assert torch.equal(pipe("the", **OPTIONS).sequences, expected)
    hook.remove()
    # as enable_sequential_cpu_offload: the weights are then nowhere
    cpu_offload(pipe.model, torch.device("cpu"))
    assert pipe.model.device.type == "meta"
    assert torch.equal(pipe("the", **OPTIONS).sequences, expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give one of prompt, messages and input_ids"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "give one of"),
        ({"prompt": "a", "input_ids": torch.tensor([[5]])}, "give one of"),
        ({"prompt": []}, "a text or a list of texts"),
        ({"prompt": ["a", 3]}, "a text or a list of texts"),
        ({"messages": []}, "at least one message"),
        ({"prompt": "a", "output_type": "txt"}, "Did you mean 'text'"),
        ({"prompt": "a", "gen_length": 3}, "no argument 'gen_length'"),
        ({"prompt": "a", "steps": 3}, "num_inference_steps"),
        ({"prompt": "a", "schedule": "sine"}, "pipe.scheduler"),
        ({"prompt": "a", "max_new_tokens": 0}, "nothing to generate"),
        ({"prompt": "a", "max_new_tokens": 1000}, "positions for 96"),
        ({"prompt": "a", "num_inference_steps": 0, "max_new_tokens": 4}, "steps must be"),
        ({"prompt": "a", "generator": 3}, "torch.Generator"),
        ({"prompt": "a", "generator": torch.Generator(), "seed": 3}, "not both"),
        (
            {"prompt": "a", "callback_on_step_end_tensor_inputs": ["latents"]},
            "Known: revealed, tokens",
        ),
    ],
)
def test_wrong_calls(pipe, arguments, says):
    passes = []
    hook = pipe.model.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(MDMError, match=says):
        pipe(**{"max_new_tokens": 4, **arguments})
    hook.remove()
    assert not passes


def test_wrong_parts(text_model, tmp_path):
    model, tokenizer = text_model
    with pytest.raises(InvalidTypeError, match="no masked language model"):
        mdm.MaskedDiffusionPipeline(
            torch.nn.Linear(2, 2), mdm.MaskedDiffusionScheduler(2), tokenizer
        )
    pipe = mdm.MaskedDiffusionPipeline(model, AmusedScheduler(2), tokenizer)
    with pytest.raises(
        InvalidTypeError, match="must be a MaskedDiffusionScheduler, got AmusedScheduler"
    ):
        pipe("the", max_new_tokens=3)
    bare = mdm.MaskedDiffusionPipeline(model, mdm.MaskedDiffusionScheduler(2))
    with pytest.raises(InvalidValueError, match="output_type='seq'"):
        bare("the", max_new_tokens=3)
    with pytest.raises(InvalidValueError, match="pass input_ids"):
        bare("the", max_new_tokens=3, output_type="seq")
    bare.set_progress_bar_config(disable=True)
    assert bare(
        input_ids=torch.tensor([[5]]), max_new_tokens=3, output_type="seq"
    ).sequences.shape == (1, 3)


def test_the_example(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["diffusers_swap.py", "--output", str(tmp_path / "swapped")])
    example.main()
    printed = capsys.readouterr().out
    assert "cosine for AmusedScheduler's cosine: 64 of 64 tokens the same" in printed
    assert "even for BlockRefinementScheduler: 16 of 16 tokens the same" in printed
    assert printed.count("beta(a=0.9, b=0.3)") == 4
