"""The shipped code model, and small tasks on disk."""

import json
from types import SimpleNamespace

import pytest
from lm_eval.tasks import TaskManager
from lm_eval_cases import CODE, request
from transformers import AutoTokenizer

import mdm_schedules as mdm
from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM


@pytest.fixture(scope="package")
def code():
    return mdm.AutoModelForMaskedDiffusion.from_pretrained(CODE), AutoTokenizer.from_pretrained(
        CODE
    )


@pytest.fixture(scope="package")
def tasks(tmp_path_factory, code):
    """Provide a folder with one task of each kind and a group of two, and their manager.

    The model writes one answer.
    """
    folder = tmp_path_factory.mktemp("tasks")
    (next_letter,) = MaskedDiffusionLM(*code).generate_until(
        [request("self.x", {"max_gen_toks": 1})]
    )
    answers = {"self.x": next_letter, "im": "@", "def": "@"}
    docs = [{"prompt": prompt, "answer": answer} for prompt, answer in answers.items()]
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))

    def add(name, kind, metrics, **more):
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
            "test_split": "test",
            "output_type": kind,
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": metric} for metric in metrics],
            **more,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML

    add(
        "writes",
        "generate_until",
        ["exact_match"],
        generation_kwargs={"until": ["@"], "max_gen_toks": 1},
    )
    add(
        "misses",
        "generate_until",
        ["ter", "exact_match"],
        generation_kwargs={"until": [], "max_gen_toks": 4},
    )
    add("chooses", "multiple_choice", ["acc"], doc_to_target=0, doc_to_choice=["(self)", "zq#"])
    add("likes", "loglikelihood", ["perplexity", "acc"])
    add(
        "rolls",
        "loglikelihood_rolling",
        ["bits_per_byte"],
        doc_to_text="",
        doc_to_target="{{prompt}}",
    )
    group = {
        "group": "both",
        "task": ["writes", "misses"],
        "aggregate_metric_list": [{"metric": "exact_match"}],
    }
    (folder / "both.yaml").write_text(json.dumps(group))
    return SimpleNamespace(
        folder=folder, manager=TaskManager(include_path=str(folder), include_defaults=False)
    )
