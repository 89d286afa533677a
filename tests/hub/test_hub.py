"""Publish, find, pull: the real huggingface_hub client against a Hub on loopback."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import mdm_schedules as mdm
from mdm_schedules.errors import (
    FormatError,
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    StorageError,
)
from mdm_schedules.schedules import Beta, EnergyOptimal, Linear, Polynomial, Schedule, Tabulated

LONG = Tabulated(np.linspace(0, 1, 300) ** 1.7, np.linspace(0, 1, 300) ** 0.9)  # type: ignore[arg-type]
SCORE = mdm.Evaluation(
    model="lab/llada",
    task="GSM8K",
    steps=16,
    metric="exact_match",
    value=0.52,
    standard_error=0.0137,
    baseline=0.47,
    model_revision="0123456789abcdef",
    sampler={"temperature": 0.0, "remasking": "random", "block_length": 32},
)


def scored(steps: int, **changes: Any) -> mdm.Evaluation:
    return dataclasses.replace(SCORE, steps=steps, **changes)


# --- round trips


@pytest.mark.parametrize("lfs", [False, True], ids=["regular", "lfs"])
@pytest.mark.parametrize(
    "schedule", [Linear(), Beta(0.1 + 0.2, 5e-324), LONG, EnergyOptimal(LONG)], ids=lambda s: s.name
)
def test_push_search_pull(hub: Any, schedule: Schedule, lfs: bool, tmp_path: Path) -> None:
    hub.lfs = lfs
    done = schedule.push_to_hub("alice/mine", evaluation=SCORE)
    assert done.oid == hub.repos["alice/mine"].refs["main"]
    (found,) = mdm.search_schedules("lab/llada", task="GSM8K")
    assert found.repo_id == "alice/mine"
    assert found.base_models == ("lab/llada",)
    assert found.evaluations == (SCORE,)
    pulled = mdm.get_schedule(found.repo_id)
    assert pulled == schedule
    assert pulled.params == schedule.params
    assert pulled.evaluation == SCORE
    schedule.save_pretrained(tmp_path / "here", evaluation=SCORE)
    for file in (tmp_path / "here").iterdir():
        assert hub.repos["alice/mine"].files[f"gsm8k-16/{file.name}"] == file.read_bytes()


def test_a_name_without_owner_is_yours(hub: Any) -> None:
    Linear().push_to_hub("mine", private=True)
    assert hub.repos["alice/mine"].private
    assert mdm.get_schedule("alice/mine") == Linear()


def test_revisions(hub: Any) -> None:
    first = Linear().push_to_hub("alice/mine").oid
    hub.repos["alice/mine"].refs["v1"] = first
    Polynomial(2).push_to_hub("alice/mine")
    assert mdm.get_schedule("alice/mine") == Polynomial(2)
    assert mdm.get_schedule(f"alice/mine@{first}") == mdm.get_schedule("alice/mine@v1") == Linear()
    assert Schedule.from_pretrained("alice/mine", revision="v1") == Linear()
    Polynomial(3).push_to_hub("alice/mine", revision="v1")
    assert mdm.get_schedule("alice/mine@v1") == Polynomial(3)
    assert mdm.get_schedule("alice/mine") == Polynomial(2)
    with pytest.raises(InvalidValueError, match="revision is given twice"):
        mdm.get_schedule("alice/mine@v1", revision="main")
    for bad in ("../main", "a b", "", "a//b", 5, "x" * 300, "a\n"):
        with pytest.raises(InvalidValueError, match="revision must be a branch, tag or commit"):
            mdm.get_schedule("alice/mine", revision=bad)


def test_the_same_push_again_changes_nothing(hub: Any) -> None:
    hub.lfs = True
    first = LONG.push_to_hub("alice/mine", evaluation=SCORE).oid
    assert LONG.push_to_hub("alice/mine", evaluation=SCORE).oid == first
    assert len(hub.repos["alice/mine"].commits) == 2  # with the one that made it


def test_files_that_a_new_schedule_does_not_have_are_deleted(
    plots: None, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    LONG.push_to_hub("alice/mine")
    assert {"schedule.safetensors", "alpha.png"} <= hub.repos["alice/mine"].files.keys()
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, module, None)
    Linear().push_to_hub("alice/mine")
    names = {".gitattributes", "README.md", "schedule.json", "schedules.json"}
    assert hub.repos["alice/mine"].files.keys() == names
    assert b".png" not in hub.repos["alice/mine"].files["README.md"]


def test_pull_requests(hub: Any) -> None:
    hub.add("bob/model", {"config.json": b"{}"})
    done = Linear().push_to_hub("bob/model", create_pr=True)
    assert done.pr_url.endswith("/bob/model/discussions/1")
    assert "schedule.json" not in hub.repos["bob/model"].files
    assert mdm.get_schedule("bob/model", revision="refs/pr/1") == Linear()
    with pytest.raises(InvalidValueError, match="goes to 'main'"):
        Linear().push_to_hub("bob/model", create_pr=True, revision="v1")


# --- several schedules in one repository


@pytest.fixture
def several(hub: Any) -> Any:
    for steps in (4, 16, 64):
        Beta(0.9, 1 / steps).push_to_hub("alice/many", evaluation=scored(steps))
    Beta(0.5, 0.5).push_to_hub("alice/many", evaluation=scored(16, task="HumanEval+"))
    return hub


def test_the_nearest_steps(several: Any) -> None:
    nearest = {1: 4, 4: 4, 7: 4, 8: 16, 9: 16, 16: 16, 31: 16, 32: 64, 1 << 24: 64}
    for asked, got in nearest.items():
        schedule = mdm.get_schedule("alice/many", task="GSM8K", steps=asked)
        assert schedule == Beta(0.9, 1 / got)
        assert schedule.evaluation.steps == got  # type: ignore[union-attr]


def test_choosing_among_several(several: Any) -> None:
    assert mdm.get_schedule("alice/many", steps=60) == Beta(0.9, 1 / 64)
    assert mdm.get_schedule("alice/many", task="humaneval") == Beta(0.5, 0.5)
    assert mdm.get_schedule("alice/many", subfolder="humaneval-16") == Beta(0.5, 0.5)
    for options, words in (
        (
            {},
            r"holds 4 schedules that fit; choose one: subfolder='gsm8k-16' \(task='GSM8K', steps=16\)",
        ),
        ({"steps": 16}, "holds 2 schedules that fit"),
        ({"task": "GSM8K"}, "holds 3 schedules that fit"),
        ({"task": "GSM9K"}, "no schedule for the task 'GSM9K'. Did you mean 'GSM8K'"),
        ({"steps": 0}, "steps must be an integer"),
        ({"task": ""}, "task must be one line"),
        ({"subfolder": "gsm8k-16", "steps": 16}, "not both"),
        ({"subfolder": "../x"}, "subfolder must be"),
        ({"a": 1}, r"parameters \['a'\] cannot be added"),
    ):
        with pytest.raises(InvalidValueError, match=words):
            mdm.get_schedule("alice/many", **options)
    with pytest.raises(StorageError, match=r"holds no none/schedule\.json"):
        mdm.get_schedule("alice/many", subfolder="none")
    Linear().push_to_hub("alice/many")
    assert mdm.get_schedule("alice/many") == Linear()


def test_generate_takes_the_nearest_to_its_steps(several: Any) -> None:
    Beta(0.7, 0.2).push_to_hub("alice/one-task", evaluation=scored(4))
    Beta(0.8, 0.1).push_to_hub("alice/one-task", evaluation=scored(32))

    def passes(steps: int | None, schedule: Any, **config: Any) -> list[int]:
        options = {"max_new_tokens": 40, "mask_token_id": 3, "remasking": "left_to_right", **config}
        out = mdm.generate(
            lambda tokens: torch.zeros(*tokens.shape, 4),
            torch.tensor([[1]]),
            steps=steps,
            schedule=schedule,
            **options,
        )
        return out.plan[0].tolist()  # type: ignore[no-any-return]

    for steps, nearest in ((5, Beta(0.7, 0.2)), (30, Beta(0.8, 0.1))):
        assert passes(steps, "alice/one-task") == nearest.plan(40, steps).tolist()
        config = mdm.MaskedDiffusionGenerationConfig(schedule="alice/one-task", steps=steps)
        assert passes(None, None, generation_config=config) == nearest.plan(40, steps).tolist()
    preset = mdm.get_schedule("preset:llada-8b/mbpp", steps=8)
    assert passes(8, "preset:llada-8b/mbpp") == preset.plan(40, 8).tolist()
    with pytest.raises(InvalidValueError, match="holds 2 schedules that fit"):
        passes(None, "alice/one-task")
    with pytest.raises(InvalidValueError, match="holds 2 schedules that fit"):
        passes(16, "alice/many")


def test_show_takes_what_pull_takes(several: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from mdm_schedules.cli import main

    assert main(["show", "alice/many", "--task", "gsm8k", "--steps", "16", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["evaluation"]["steps"], len(shown["plan"])) == (16, 16)
    for command in ("show", "pull"):
        assert main([command, "alice/many", "--task", "gsm8k"]) == 1
        assert (
            "choose one: --subfolder gsm8k-16 (--task GSM8K --steps 16), --sub"
            in capsys.readouterr().err
        )


def test_export_writes_out_the_one_that_is_meant(
    several: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mdm_schedules.cli import main

    words = [
        "export",
        "sglang",
        "alice/many",
        "--steps",
        "16",
        "--output",
        str(tmp_path / "mdm.yaml"),
    ]
    assert main([*words, "--task", "gsm8k"]) == 0
    text = (tmp_path / "mdm.yaml").read_text()
    assert text == 'schedule: "beta(a=0.9, b=0.0625)"\nsteps: 16\n'
    assert main(words) == 1
    assert "--subfolder gsm8k-16" in capsys.readouterr().err


def test_a_local_copy_of_such_a_repository(several: Any, tmp_path: Path) -> None:
    for name, data in several.repos["alice/many"].files.items():
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / name).write_bytes(data)
    assert mdm.get_schedule("./clone", task="GSM8K", steps=5) == Beta(0.9, 1 / 4)
    assert mdm.get_schedule(tmp_path / "clone", subfolder="gsm8k-64") == Beta(0.9, 1 / 64)
    with pytest.raises(InvalidValueError, match="holds 4 schedules"):
        mdm.get_schedule("./clone")
    with pytest.raises(InvalidValueError, match="is for Hub ids"):
        mdm.get_schedule("./clone", revision="main")


def test_a_single_schedule_needs_no_choice(hub: Any) -> None:
    hub.add("alice/bare", {"schedule.json": file_of(Linear())})
    assert mdm.get_schedule("alice/bare", steps=8) == Linear()
    with pytest.raises(StorageError, match="leave out task"):
        mdm.get_schedule("alice/bare", task="x")


def test_another_model_s_place_is_taken(several: Any) -> None:
    before = several.repos["alice/many"].refs["main"]
    with pytest.raises(
        InvalidValueError,
        match="already holds a schedule for lab/llada in 'gsm8k-16'; push to another",
    ):
        Linear().push_to_hub("alice/many", evaluation=scored(16, model="lab/dream"))
    assert several.repos["alice/many"].refs["main"] == before
    Linear().push_to_hub(
        "alice/many", evaluation=scored(16, model="lab/dream"), subfolder="dream/gsm8k-16"
    )
    assert mdm.get_schedule("alice/many", subfolder="dream/gsm8k-16") == Linear()
    assert mdm.search_schedules("lab/dream")[0].base_models == ("lab/dream", "lab/llada")


def file_of(schedule: Schedule, **extra: Any) -> bytes:

    return json.dumps({**json.loads(schedule.to_record().to_text()), **extra}).encode()


# --- what is recorded


def test_unknown_fields_are_kept(hub: Any, tmp_path: Path) -> None:
    extra = {"license": "mit", "evaluation": {**SCORE.to_json(), "judge": {"x": [1, None]}}}
    hub.add("bob/new", {"schedule.json": file_of(Beta(1, 2), format_version="1.9", **extra)})
    schedule = mdm.get_schedule("bob/new")
    assert schedule == Beta(1, 2)
    schedule.save_pretrained(tmp_path / "copy")
    mdm.get_schedule(tmp_path / "copy").push_to_hub("alice/copy")
    for data in (
        (tmp_path / "copy/schedule.json").read_bytes(),
        hub.repos["alice/copy"].files["gsm8k-16/schedule.json"],
    ):
        assert json.loads(data).items() >= extra.items()
    again = mdm.get_schedule("alice/copy").evaluation
    assert again is not None
    assert again.extra == {"judge": {"x": [1, None]}}
    # a changed schedule is another one, of which nothing is known
    assert dataclasses.replace(schedule, a=3).evaluation is None  # type: ignore[type-var]


def test_the_card(plots: None, several: Any) -> None:
    Linear().push_to_hub(
        "alice/many", evaluation=scored(2, task="a|b <i>", model="somewhere local")
    )
    text = several.repos["alice/many"].files["README.md"].decode()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["library_name"] == "mdm-schedules"
    assert metadata["base_model"] == "lab/llada"
    assert {"mask-schedule", "gsm8k", "humaneval"} <= set(metadata["tags"])
    metrics = [m for result in metadata["model-index"][0]["results"] for m in result["metrics"]]
    assert len(metrics) == 5
    assert {m["args"]["steps"] for m in metrics} == {2, 4, 16, 64}
    assert (
        "| gsm8k-16 | `beta(a=0.9, b=0.0625)` | lab/llada @ 0123456789ab | GSM8K | 16 | "
        "exact_match | 0.52 ± 0.014 |" in text
    )
    assert "a\\|b &lt;i>" in text
    for place in ("gsm8k-16", "humaneval-16"):
        assert f"]({place}/alpha.png)" in text
        assert several.repos["alice/many"].files[f"{place}/alpha.png"].startswith(b"\x89PNG")
    snippet = text.split("```python\n")[1].split("```")[0]
    assert 'get_schedule("alice/many", ' in snippet
    line = next(line for line in snippet.splitlines() if "get_schedule" in line)
    space: dict[str, Any] = {}
    exec(f"import mdm_schedules as mdm\n{line}", space)
    assert isinstance(space["schedule"], Schedule)


def test_what_others_wrote_into_the_card_stays(hub: Any) -> None:
    Linear().push_to_hub("alice/mine", evaluation=SCORE)
    repo = hub.repos["alice/mine"]
    text = repo.files["README.md"].decode().replace("library_name:", "license: mit\nlibrary_name:")
    text = (
        text.replace("<!-- mdm-schedules: generated", "My words.\n\n<!-- mdm-schedules: generated")
        + "\nMy end.\n"
    )
    repo.commit({**repo.files, "README.md": text.encode()})
    Beta(1, 1).push_to_hub("alice/mine", evaluation=SCORE)
    new = repo.files["README.md"].decode()
    assert "license: mit" in new
    assert new.index("My words.") < new.index("beta(a=1.0, b=1.0)") < new.index("My end.")
    assert "linear()" not in new
    Beta(1, 1).push_to_hub("alice/mine", evaluation=SCORE)
    assert repo.files["README.md"].decode() == new


def test_a_readme_of_others_gets_tags_and_keeps_the_rest(hub: Any) -> None:
    readme = b"---\nlicense: mit\ntags: [mine]\nbase_model: x/y\nlibrary_name: z\n---\n# My page\n"
    hub.add("alice/model", {"README.md": readme, "config.json": b"{}"})
    hub.add("alice/bare", {"README.md": b"# My page\n\n---\nText.\n"})
    for name in ("alice/model", "alice/bare"):
        for _ in range(2):
            LONG.push_to_hub(name, evaluation=SCORE)
    card = hub.repos["alice/model"].card()
    assert card["license"] == "mit"
    assert card["base_model"] == "x/y"
    assert card["library_name"] == "z"
    assert {"mine", "mask-schedule"} <= set(card["tags"])
    text = hub.repos["alice/model"].files["README.md"].decode()
    assert text.endswith("---\n# My page\n")
    bare = hub.repos["alice/bare"].files["README.md"].decode()
    assert bare.endswith("---\n# My page\n\n---\nText.\n")
    assert {found.repo_id for found in mdm.search_schedules()} == {"alice/model", "alice/bare"}
    assert [found.repo_id for found in mdm.search_schedules(SCORE.model)] == ["alice/bare"]


def test_a_readme_with_broken_metadata_is_left_alone_and_it_is_said(hub: Any, caplog: Any) -> None:
    readme = b"---\nmodel-index: [5]\n---\n# My model\n"
    hub.add("alice/model", {"README.md": readme, "config.json": b"{}", "model.safetensors": b"x"})
    LONG.push_to_hub("alice/model")
    files = hub.repos["alice/model"].files
    assert files["README.md"] == readme
    assert "alice/model has metadata that cannot be read" in caplog.text
    assert files["model.safetensors"] == b"x"
    assert mdm.get_schedule("alice/model") == LONG


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ""}, "model must be one line"),
        ({"task": "a\nb"}, "task must be one line"),
        ({"metric": None}, "metric must be text"),
        ({"steps": 1.5}, "steps must be an integer"),
        ({"value": float("nan")}, "value must be a finite number"),
        ({"value": "0.5"}, "value must be a finite number"),
        ({"standard_error": -1}, "standard_error must be"),
        ({"baseline": True}, "baseline must be"),
        ({"nfe": float("inf")}, "nfe must be"),
        ({"model_revision": 5}, "model_revision must be text"),
        ({"sampler": [1]}, "sampler must be a mapping"),
        ({"sampler": {"x": []}}, r"sampler\['x'\] must be"),
        ({"sampler": {5: 1}}, "a name in sampler must be text"),
    ],
)
def test_evaluations_that_are_none(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(MDMError, match=words):
        dataclasses.replace(SCORE, **changes)
    with pytest.raises(FormatError, match="evaluation: "):
        mdm.Evaluation.from_json({**SCORE.to_json(), **changes})


def test_a_record_that_is_no_evaluation(tmp_path: Path) -> None:
    for record, words in (
        (None, "must be an object"),
        ([], "must be an object"),
        ({}, "missing 5 required"),
        ({"value": 1}, "missing"),
    ):
        (tmp_path / "schedule.json").write_bytes(file_of(Linear(), evaluation=record))
        with pytest.raises(FormatError, match=words):
            mdm.get_schedule(tmp_path)
    with pytest.raises(InvalidTypeError, match=r"evaluation must be an mdm_schedules\.Evaluation"):
        Linear().save_pretrained(tmp_path, evaluation={"value": 1})  # type: ignore[arg-type]


# --- search


def test_search(several: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Linear().push_to_hub("alice/other", evaluation=scored(8, model="lab/dream", task="MBPP"))
    Linear().push_to_hub("alice/hidden", evaluation=SCORE, private=True)
    several.add("bob/model", {"README.md": b"---\ntags: [llada]\n---\n"})
    several.add(
        "bob/odd",
        {"README.md": b"---\ntags: [mask-schedule]\nbase_model: {a: 1}\nmodel-index: [5]\n---\n"},
    )
    odd = {
        "name": "x",
        "results": [
            {
                "task": {"type": "t"},
                "dataset": {"name": "n", "type": "n"},
                "metrics": [
                    {"type": "m", "value": 1, "args": {"steps": -1, "model": ["x"], "metric": "m"}},
                    {"type": "m", "value": "v"},
                ],
            }
        ],
    }
    card = yaml.safe_dump({"tags": ["mask-schedule"], "model-index": [odd]})
    several.add("bob/strange", {"README.md": f"---\n{card}---\n".encode()})

    def names(*words: Any, **options: Any) -> list[str]:
        return [found.repo_id for found in mdm.search_schedules(*words, **options)]

    assert names("lab/llada") == ["alice/many", "alice/hidden"]
    assert names("lab/llada", token="hf_bob") == ["alice/many"]
    assert names("lab/dream", task="MBPP") == ["alice/other"]
    assert names(task="HumanEval+") == ["alice/many"]
    assert names(author="bob") == ["bob/odd", "bob/strange"]
    assert names(search="oth") == ["alice/other"]
    assert len(names(limit=2)) == 2
    assert names("lab/none") == []
    assert [found.evaluations for found in mdm.search_schedules(author="bob")] == [(), ()]
    for bad in ("llada", "", 5, "a/b/c"):
        with pytest.raises(InvalidValueError, match="base_model: a Hub id must be like"):
            mdm.search_schedules(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="limit must be"):
        mdm.search_schedules(limit=0)
