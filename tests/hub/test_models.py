"""Models on the Hub, in a user's own process whose HF_ENDPOINT is on loopback; the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import released

import mdm_schedules as mdm
from mdm_schedules.cli import main
from mdm_schedules.demo import models as demo_models
from mdm_schedules.schedules import Beta, Linear

pytestmark = pytest.mark.slow


def user(hub: Any, folder: Path, code: str, **environment: str) -> str:
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "home"),
        "HF_TOKEN": "hf_alice",
        "HF_HUB_OFFLINE": "0",
    }
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **settings},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_push_search_pull_generate(plots: None, hub: Any, tmp_path: Path) -> None:
    files = {
        file.name: file.read_bytes()
        for file in demo_models.path("code").iterdir()
        if file.is_file()
    }
    for name in ("lab/code", "alice/code"):
        hub.add(name, {file: data for file, data in files.items() if file != "README.md"})
    said = user(
        hub,
        tmp_path,
        """
        import mdm_schedules as mdm, numpy as np, torch

        schedule = mdm.Tabulated(np.linspace(0, 1, 100) ** 1.3)
        score = mdm.Evaluation(model="lab/code", task="write code", steps=8, metric="nll", value=1.5, baseline=1.75)
        schedule.push_to_hub("alice/code-schedule", evaluation=score)
        (found,) = mdm.search_schedules("lab/code", task="write code")
        pulled = mdm.get_schedule(found.repo_id, steps=16)
        assert pulled == schedule and pulled.params == schedule.params and pulled.evaluation == score

        load = mdm.AutoModelForMaskedDiffusion.from_pretrained
        def tokens(model):
            prompt = torch.tensor([[5, 6, 7]])
            out = model.generate(prompt, max_new_tokens=24, steps=8, remasking="random", temperature=1.0, seed=1)
            return out.sequences.tolist()
        from_hub, given = load("lab/code", schedule="alice/code-schedule"), load("lab/code", schedule=schedule)
        assert from_hub.schedule == schedule
        assert tokens(from_hub) == tokens(given) != tokens(load("lab/code"))

        assert load("alice/code").schedule == mdm.Linear()
        mdm.Beta(0.9, 0.3).push_to_hub("alice/code")
        assert load("alice/code", schedule="linear").schedule == mdm.Linear()
        for _ in range(3):
            assert load("alice/code").schedule == mdm.Beta(0.9, 0.3)
        """,
    )
    carries = "alice/code carries the schedule beta(a=0.9, b=0.3), which is used"
    assert said.count("carries the schedule") == said.count(carries) == 1
    code = """
        import mdm_schedules as mdm

        model = mdm.AutoModelForMaskedDiffusion.from_pretrained("alice/code")
        assert model.schedule == mdm.get_schedule("alice/code") == mdm.Beta(0.9, 0.3)
        assert len(mdm.get_schedule("alice/code-schedule", steps=16).alpha_knots) == 100
        """
    assert user(hub, tmp_path, code, HF_HUB_OFFLINE="1").count(carries) == 1


def test_a_broken_schedule_beside_a_model_is_an_error(hub: Any) -> None:
    hub.add("bob/model", {"schedule.json": b"{", "config.json": b"{}"})
    with pytest.raises(mdm.errors.FormatError, match="not valid JSON"):
        mdm.AutoModelForMaskedDiffusion.from_pretrained("bob/model")


def test_a_repository_that_cannot_be_asked_is_said(
    hub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from mdm_schedules.lookup import find_schedule

    hub.add("bob/plain", {"config.json": b"{}"})
    assert find_schedule("bob/plain") is None
    assert find_schedule("plain-name") is None  # older models have no owner
    assert not [record for record in caplog.records if "bob/plain" in record.message]
    hub.fail("HEAD /bob/plain", 503, times=1 << 20)
    assert find_schedule("bob/plain", force_download=True) is None
    assert "could not ask bob/plain for a schedule of its own, so linear is used" in caplog.text


def test_the_command_line(hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        return (status, *capsys.readouterr())

    score = {
        "model": "lab/llada",
        "task": "gsm8k",
        "steps": 16,
        "metric": "exact_match",
        "value": 0.5,
        "baseline": 0.4,
    }
    (tmp_path / "score.json").write_text(json.dumps(score))
    status, out, _ = run(
        "push",
        "beta(a=0.9, b=0.3)",
        "alice/mine",
        "--evaluation",
        "score.json",
        "--message",
        "First",
    )
    assert (status, out.split(":")[0]) == (0, "Pushed")
    assert hub.repos["alice/mine"].messages[-1] == "First"
    scored = "gsm8k in 16 steps on lab/llada: exact_match 0.5, linear 0.4"
    for words in (
        ("search",),
        ("search", "--base-model", "lab/llada", "--task", "gsm8k", "--author", "alice"),
    ):
        status, out, _ = run(*words)
        assert status == 0
        assert out.startswith("alice/mine  for lab/llada")
        assert scored in out
    assert json.loads(run("search", "--json")[1])[0]["evaluations"][0]["value"] == 0.5
    assert "Nothing fits" in run("search", "no-such")[1]
    status, out, _ = run("pull", "alice/mine", "--steps", "20", "--json")
    assert json.loads(out)["folder"] == "mine"
    pulled = mdm.get_schedule("./mine")
    assert pulled == Beta(0.9, 0.3)
    assert pulled.evaluation is not None
    assert pulled.evaluation.baseline == 0.4
    assert scored in run("show", "alice/mine")[1]
    assert (
        json.loads(run("show", "alice/mine", "--subfolder", "gsm8k-16", "--json")[1])["evaluation"]
        == pulled.evaluation.to_json()
    )
    assert run("push", "./mine", "alice/copy", "--private", "--subfolder", "a/b", "--json")[0] == 0
    assert mdm.get_schedule("alice/copy", subfolder="a/b") == Beta(0.9, 0.3)
    for words in (
        ("pull", "alice/none"),
        ("push", "linear", "bob/x"),
        ("push", "linear", "x y"),
        ("push", "linear", "alice/x", "--evaluation", "missing.json"),
        ("search", "--base-model", "x"),
    ):
        status, out, err = run(*words)
        assert (status, out) == (1, "")
        assert err.startswith("mdm-schedules: ")
        assert err.count("\n") == 1
    assert (
        "no evaluation file at missing.json"
        in run("push", "linear", "alice/x", "--evaluation", "missing.json")[2]
    )
    Linear().push_to_hub("alice/pr-target")
    assert "/discussions/1" in run("push", "beta(1, 1)", "alice/pr-target", "--create-pr")[1]


def test_every_way_of_publishing_a_model_carries_schedule_and_options(
    hub: Any, tmp_path: Path
) -> None:
    said = user(
        hub,
        tmp_path,
        """
        import mdm_schedules as mdm
        from mdm_schedules.demo import models

        model = mdm.AutoModelForMaskedDiffusion.from_pretrained(
            str(models.path("code")), schedule="beta(a=0.9, b=0.3)"
        )
        model.generation_config = mdm.MaskedDiffusionGenerationConfig(steps=16)
        model.push_to_hub("alice/a")
        model.save_pretrained("b", push_to_hub=True, repo_id="alice/b")
        pipe = mdm.MaskedDiffusionPipeline.from_pretrained(
            str(models.path("code")), schedule="beta(a=0.9, b=0.3)"
        )
        pipe.save_pretrained("c", push_to_hub=True, repo_id="alice/c")
        for name in ("alice/a", "alice/b"):
            found = mdm.AutoModelForMaskedDiffusion.from_pretrained(name)
            print("found", found.schedule.spec, found.generation_config.masked_diffusion)
        found = mdm.MaskedDiffusionPipeline.from_pretrained("alice/c")
        print("found", found.scheduler.schedule.spec)
        """,
    )
    lines = [line for line in said.splitlines() if line.startswith("found")]
    spec = "found beta(a=0.9, b=0.3)"
    assert lines == [f"{spec} {{'steps': 16}}"] * 2 + [spec]
    for name in ("alice/a", "alice/b"):
        assert {"schedule.json", "generation_config.json"} <= set(hub.repos[name].files)


def test_a_released_model_is_loaded_from_the_hub_and_pushed_with_a_card(
    hub: Any, tmp_path: Path
) -> None:
    released.write(tmp_path / "model", "llada")
    files = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    hub.add("lab/llada", files)
    hub.add("alice/mine", {"README.md": b"---\nlicense: mit\n---\n\nMy own words.\n"})
    said = user(
        hub,
        tmp_path,
        """
        import mdm_schedules as mdm

        from mdm_schedules.integrations.transformers.native.convert import convert
        model = mdm.AutoModelForMaskedDiffusion.from_pretrained("lab/llada", schedule="sine")
        for name in ("alice/native", "alice/mine"):
            model.push_to_hub(name)
        again = mdm.AutoModelForMaskedDiffusion.from_pretrained("alice/native")
        print(type(again).__name__, again.schedule, again.config.base_model)
        convert("lab/llada", "converted")
        """,
    )
    assert "MDMLlamaForMaskedLM sine" in said
    assert "lab/llada" in said
    for name in ("alice/native", "alice/mine"):
        card = hub.repos[name].card()
        assert card["base_model"] == "lab/llada"
        assert "masked-diffusion" in card["tags"]
    text = hub.repos["alice/native"].files["README.md"].decode()
    assert 'from_pretrained("alice/native")' in text
    assert "More Information Needed" not in text
    mine = hub.repos["alice/mine"].files["README.md"].decode()
    assert "My own words." in mine
    assert "license: mit" in mine
    assert "base_model: lab/llada" in (tmp_path / "converted" / "README.md").read_text()
