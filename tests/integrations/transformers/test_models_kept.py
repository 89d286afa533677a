"""A model keeps its schedule: as an attribute, through pickles, and in all ways of saving it."""

import copy
import io
import multiprocessing
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from encoders import MASK, build

import mdm_schedules as mdm
from mdm_schedules.errors import MDMError, StorageError
from mdm_schedules.integrations.transformers.native import load_tokenizer
from mdm_schedules.sampling.generation import own_schedule

PROMPT = torch.tensor([[7, 8]])
SINE, BETA = mdm.get_schedule("sine"), mdm.get_schedule("beta(a=0.9, b=0.3)")


def made(schedule="sine"):
    model = build("bert")
    model.config.mask_token_id = MASK
    return mdm.AutoModelForMaskedDiffusion.from_model(model, schedule)


def plan(model, **options):
    return mdm.generate(model, PROMPT, max_new_tokens=32, steps=4, **options).plan[0].tolist()


def again(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "way",
    [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, again],
    ids=["pickle", "copy", "torch"],
)
def test_a_model_comes_back_with_class_schedule_and_generate(way):
    model = made()
    back = way(model)
    assert type(back) is type(model)
    assert isinstance(back, transformers.BertForMaskedLM)
    assert back.schedule == SINE
    out = back.generate(PROMPT, max_new_tokens=8, steps=2)
    assert torch.equal(out.sequences, model.generate(PROMPT, max_new_tokens=8, steps=2).sequences)
    assert pickle.loads(pickle.dumps(type(model))) is type(model)


def _answer(model, queue):
    queue.put((type(model).__name__, model.schedule.spec))


@pytest.mark.slow
def test_a_model_goes_to_a_spawned_process():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_answer, args=(made(), queue))
    process.start()
    assert queue.get(timeout=120) == ("BertForMaskedLM", SINE.spec)
    process.join()


def test_a_schedule_as_an_attribute_means_what_it_means_as_an_argument(tmp_path):
    model = made("linear")
    for value in ("sine", "beta(a=0.9, b=0.3)", BETA):
        model.schedule = value
        assert model.schedule == mdm.get_schedule(value)
        assert plan(model) == plan(model, schedule=value)
    model.save_pretrained(tmp_path)
    assert mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path).schedule == BETA
    for value in ("no such schedule", None, 3):
        with pytest.raises(MDMError):
            model.schedule = value
    assert model.schedule == BETA


def test_a_plain_model_s_attribute_counts_too_and_through_wrappers():
    model = build("bert")
    model.config.mask_token_id = MASK
    assert own_schedule(model) == mdm.get_schedule("linear")
    model.schedule = "sine"
    assert plan(model) == plan(model, schedule="sine") != plan(model, schedule="linear")
    assert own_schedule(torch.nn.DataParallel(model)) == SINE
    done = mdm.generate_distributed(model, [[7, 8]], max_new_tokens=32, steps=4)
    again = mdm.generate(model, PROMPT, max_new_tokens=32, steps=4, schedule="sine")
    assert done.records[0]["tokens"] == again[0].tolist()
    model.schedule = "sinus"
    with pytest.raises(MDMError, match=r"model\.schedule: .*Did you mean 'sine'"):
        plan(model)
    model.schedule = SimpleNamespace()  # something else of that name
    assert plan(model) == [8, 8, 8, 8]


def test_a_scheduler_s_attribute_counts_too():
    scheduler = mdm.MaskedDiffusionScheduler(mask_token_id=MASK, schedule="linear")
    scheduler.schedule = "sine"
    assert scheduler.schedule == SINE
    assert scheduler.config.schedule == SINE.spec
    with pytest.raises(MDMError):
        scheduler.schedule = "sinus"


def test_only_the_main_process_saves(tmp_path):
    model = made()
    model.generation_config = mdm.MaskedDiffusionGenerationConfig(steps=4)
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    model.save_pretrained(tmp_path / "positional", False)
    for name in ("other", "positional"):
        assert not list(Path(tmp_path, name).glob("*.json"))
    model.save_pretrained(tmp_path / "main", is_main_process=True)
    back = mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path / "main")
    assert back.schedule == SINE
    assert back.generation_config.masked_diffusion == {"steps": 4}


def test_a_trainer_saves_the_schedule_with_its_checkpoints(tmp_path):
    pytest.importorskip("accelerate")
    model = made(BETA)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, max_steps=1, save_steps=1
    )
    rows = [{"input_ids": torch.tensor([7, 8]), "labels": torch.tensor([7, 8])}] * 8
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "end"))
    for folder in ("end", "checkpoint-1"):
        found = mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path / folder)
        assert found.schedule == BETA


def test_without_tokenizer_files_no_mask_token_is_made_up(tmp_path):
    build("bert").save_pretrained(tmp_path)
    model = mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path)
    assert getattr(model.config, "mask_token_id", None) is None
    with pytest.raises(MDMError, match=r"mask_token_id=tokenizer\.mask_token_id"):
        model.generate(PROMPT, max_new_tokens=4)
    with pytest.raises(StorageError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(StorageError, match="holds no tokenizer"):
        mdm.MaskedDiffusionPipeline.from_pretrained(tmp_path)
    Path(tmp_path, "vocab.txt").write_text(
        "\n".join(["[PAD]", "a", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    )
    Path(tmp_path, "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path).config.mask_token_id == 5
