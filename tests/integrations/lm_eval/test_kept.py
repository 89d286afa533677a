"""What `eval` keeps of a run that was stopped, and how the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
import torch

from mdm_schedules.errors import StorageError
from mdm_schedules.integrations.lm_eval.answers import KeptAnswers, answer_files, count_answers

# indexing the tasks that ship with lm-eval takes seconds, and none of them is asked for
SCRIPT = """
import functools, sys
import lm_eval.tasks
lm_eval.tasks.TaskManager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
from mdm_schedules.cli import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Question:
    text: str
    seed: int = 0


def ask(kept, texts, seen):
    """Answer each text by its length, in reverse order; note what was asked."""

    def run(part):
        seen.extend(one.text for one in part)
        for i in reversed(range(len(part))):
            yield i, [len(part[i].text)], 7

    return sorted(kept.through([Question(text) for text in texts], run))


def test_answers_are_found_again_by_all_that_decides_them(tmp_path):
    output, seen = tmp_path / "r.json", []
    assert ask(KeptAnswers(output, {"steps": 4}), ["a", "bb"], seen) == [(0, [1], 7), (1, [2], 7)]
    # another process, which reads what all have written
    other = KeptAnswers(output, {"steps": 4}, rank=3)
    assert ask(other, ["ccc", "bb", "a"], seen) == [(0, [3], 7), (1, [2], 7), (2, [1], 7)]
    assert seen == ["a", "bb", "ccc"]
    assert ask(KeptAnswers(output, {"steps": 4}), ["a", "bb", "ccc"], seen)[2] == (2, [3], 7)
    assert seen == ["a", "bb", "ccc"]
    assert ask(KeptAnswers(output, {"steps": 8}), ["a"], seen) == [(0, [1], 7)]
    assert seen == ["a", "bb", "ccc", "a"]
    names = ["r.json.answers.0.jsonl", "r.json.answers.3.jsonl"]
    assert [file.name for file in answer_files(output)] == names
    assert count_answers(output) == 4
    assert count_answers(tmp_path / "no/such/r.json") == 0


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_line_is_asked_again_and_spoils_no_other(tmp_path, cut):
    output, seen = tmp_path / "r.json", []
    ask(KeptAnswers(output, {}), ["a", "bb", "ccc"], seen)
    (file,) = answer_files(output)
    file.write_bytes(file.read_bytes()[:-cut])
    for _ in range(2):
        assert len(ask(KeptAnswers(output, {}), ["a", "bb", "ccc"], seen)) == 3
    assert seen == ["a", "bb", "ccc", "a"]  # the last one that was written is the first question


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    kept = KeptAnswers(tmp_path / "gone/r.json", {})
    with pytest.raises(StorageError, match=r"r\.json\.answers\.0\.jsonl: No such file"):
        ask(kept, ["a"], [])


@pytest.fixture
def start(tmp_path):
    """(words) -> the running `mdm-schedules eval` on forty prompts."""
    docs = [{"prompt": f"def f{i}(self", "answer": "@"} for i in range(40)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    task = {
        "task": "forty",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "docs.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match"}],
        "generation_kwargs": {"until": [], "max_gen_toks": 16},
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/forty.yaml").write_text(json.dumps(task))
    (tmp_path / "run.py").write_text(SCRIPT)
    running = []

    def begin(*words):
        words = ["eval", "--include-path", "tasks", "--tasks", "forty", "--steps", "16", *words]
        process = subprocess.Popen(
            [sys.executable, "run.py", *words],
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_after_ctrl_c_the_same_command_asks_only_for_the_rest(start, tmp_path):
    words = ["--temperature", "0.7", "--log-samples", "--output"]
    process = start(*words, "r.json")
    kept = tmp_path / "r.json.answers.0.jsonl"
    end = time.monotonic() + 200
    while not kept.exists() or kept.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("mdm-schedules: ")]
    count = count_answers(tmp_path / "r.json")
    assert 3 <= count < 40
    assert said[0].startswith(f"mdm-schedules: stopped by Ctrl-C; {count} answers are kept beside")
    assert "this command goes on: mdm-schedules eval --include-path tasks --tasks forty" in said[0]
    assert not (tmp_path / "r.json").exists()

    # what is kept is what the second run takes: one answer is marked
    lines = kept.read_text().split("\n")
    marked = json.loads(lines[1])
    marked["answer"][0] = marked["answer"][0][:1]
    kept.write_text("\n".join([lines[0], json.dumps(marked), *lines[2:]]))
    process = start(*words, "r.json")
    assert process.wait(timeout=200) == 0, process.communicate()
    samples = json.loads((tmp_path / "r.json").read_text())["samples"]["forty"]
    assert len(samples) == 40
    assert [len(one["resps"][0][0]) for one in samples].count(1) == 1
    assert not answer_files(tmp_path / "r.json")


def test_the_models_weights_are_part_of_what_decides(tmp_path):
    from types import SimpleNamespace

    from transformers import BertConfig, BertForMaskedLM

    from mdm_schedules.integrations.lm_eval.answers import keep_answers

    config = BertConfig(
        vocab_size=8,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
    )

    def about(model, **options):
        lm = SimpleNamespace(
            model=model, tokenizer=None, options=options, seed=0, mc_num=2, rank=0, kept=None
        )
        keep_answers(lm, tmp_path / "r.json")
        return lm.kept.about

    model = BertForMaskedLM(config)
    before = about(model, steps=4)
    assert about(model, steps=4) == before
    assert about(model, steps=5) != before
    assert about(model, steps=4, schedule="sine") != before
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert about(model, steps=4) != before
