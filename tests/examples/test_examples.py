"""The scripts in examples/, run as written (with their quick options)."""

import json
import re

import pytest
from scripts import ROOT, run

pytestmark = pytest.mark.slow


def test_sampler_in_30_lines(tmp_path):
    done = run(ROOT / "examples/sampler_in_30_lines.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "as mdm_schedules.generate writes them: True" in done.stdout


@pytest.mark.parametrize("name", ["code", "sudoku"])
def test_training_script(name, tmp_path):
    words = ("--smoke", "--save-minutes", 0, "--out", tmp_path / name)
    done = run(ROOT / f"examples/training/train_{name}.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / name / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert (tmp_path / name / "model.safetensors").stat().st_size > 1000
    assert "nll_nats_per_token" in done.stdout
    if name == "code":
        done = run(ROOT / "examples/training/train_code.py", *words, cwd=tmp_path)
        assert "goes on from step 3" in done.stdout, done.stderr


def test_code_infilling_benchmark(tmp_path):
    words = ("--instances", 2, "--schedule", "linear", "--share", 1, "--output", "out.json")
    model = f"old={ROOT / 'mdm_schedules/demo/models/code'}"
    done = run(
        ROOT / "examples/benchmarks/code_infilling.py", "--model", model, *words, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())
    assert set(results) == {"argument, old, linear, 1.0", "line, old, linear, 1.0"}


def test_sudoku_benchmark(tmp_path):
    words = ("--puzzles", 4, "--steps", 6, "--schedule", "linear", "--output", "out.json")
    done = run(ROOT / "examples/benchmarks/sudoku_accuracy.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())
    assert set(results) == {"random", "low_confidence"}
    assert set(results["random"]["linear()"]) == {"6"}


@pytest.mark.parametrize("name", ["energy_landscape", "schedule_curves", "toy"])
def test_paper_figure(name, tmp_path):
    pytest.importorskip("matplotlib")
    done = run(
        ROOT / f"examples/paper/{name}.py", *([] if name == "toy" else ["--quick"]), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / f"figures/{name}.json").read_text())
    if name == "energy_landscape":
        for panel in numbers["panels"]:
            assert panel["minimum"]["excess"] == pytest.approx(1, abs=1e-3)
            assert [panel["minimum"]["a"], panel["minimum"]["b"]] == pytest.approx(
                panel["gamma"], rel=0.05
            )
    elif name == "schedule_curves":
        linear = next(
            curve for curve in numbers["curves"] if (curve["a"], curve["b"]) == (0.5, 0.5)
        )
        assert linear["alpha"] == pytest.approx(numbers["t"], abs=1e-12)
    else:
        for target in numbers["targets"].values():
            assert len(target["plans"]) == 21
            for row in target["schedules"]:
                assert row["ancestral"] == pytest.approx(row["ancestral_predicted"], abs=1e-10)


def test_paper_tables(tmp_path):
    done = run(
        ROOT / "examples/paper/tables.py", "--markdown", "--output", "out.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("### LLaDA-8B on ") == 6
    assert re.search(r"beta\(a=1, b=0.2\) +\| +5.80 ± 1.05\* \| +15.40 ± 1.62\* \|", done.stdout)
    assert {
        table["task"]: len(table["rows"])
        for table in json.loads((tmp_path / "out.json").read_text())
    }["bbh"] == 9
    done = run(ROOT / "examples/paper/tables.py", "--task", "mbbp", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "'llada-8b/mbpp'" in done.stderr


def test_the_papers_grid_on_a_model(tmp_path):
    docs = [
        {"prompt": "for i in range", "answer": "("},
        {"prompt": "import ", "answer": "no such module"},
    ]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    task = {
        "task": "completion",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "docs.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["i", "l", "n"]},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "task.yaml").write_text(json.dumps(task))  # JSON is YAML
    words = [
        "--model",
        ROOT / "mdm_schedules/demo/models/code",
        "--task",
        "completion",
        "--include-path",
        tmp_path,
    ]
    words += [
        "--schedule",
        "linear",
        "--schedule",
        "sine",
        "--steps",
        2,
        4,
        "--gen-length",
        8,
        "--batch-size",
        2,
    ]
    done = run(ROOT / "examples/paper/tables.py", *words, "--output", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads((tmp_path / "out.json").read_text())
    assert (table["steps"], [row["schedule"] for row in table["rows"]]) == (
        [2, 4],
        ["linear", "sine"],
    )
    for row in table["rows"]:
        assert row["mean"][0] in (0, 50, 100)
        assert len(row["standard_error"]) == 2


def test_the_papers_grid_on_a_model_that_is_not_there(tmp_path):
    done = run(ROOT / "examples/paper/tables.py", "--model", "x", "--task", "gsm8k", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tables.py: ")
    assert "Traceback" not in done.stderr


def test_markov_chains_benchmark(tmp_path):
    words = (
        "--world",
        "well mixed",
        "--world",
        "parity",
        "--steps",
        4,
        "--repeats",
        1,
        "--output",
        "out.json",
    )
    done = run(ROOT / "examples/benchmarks/markov_chains.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("linear is already optimal") == 1
    results = json.loads((tmp_path / "out.json").read_text())
    for world in results.values():
        costs = world["cost"]["4"]
        assert costs["optimal_plan"] <= costs["fit_beta"] <= costs["best Beta of the grid"]
        assert 1 <= world["estimated"]["ratio"]["4"]["optimal_plan"] <= 1.05


def test_few_step_quality_benchmark(tmp_path):
    words = (
        "--world",
        "sudoku",
        "--policy",
        "random",
        "--steps",
        3,
        6,
        "--instances",
        6,
        "--select",
        8,
        "--trials",
        2,
    )
    done = run(
        ROOT / "examples/benchmarks/few_step_quality.py",
        *words,
        "--output",
        "out.json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())["random"]
    assert {"linear", "tuned", "best plan"} <= set(result["scores"]["3"])
    assert "linear at 6 steps" in result["tuned over"]["3"]
    words = (
        "--world",
        "code",
        "--policy",
        "random",
        "--steps",
        2,
        "--instances",
        3,
        "--select",
        8,
        "--trials",
        1,
        "--profile",
        2,
    )
    done = run(ROOT / "examples/benchmarks/few_step_quality.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| tuned \| -\d\.\d+ ± ", done.stdout)


def test_tuning_cost_benchmark(tmp_path):
    words = ("--repeats", 1, "--instances", 2, "--method", "grid", "--output", "out.json")
    done = run(ROOT / "examples/benchmarks/tuning_cost.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"grid", "profile"}
    assert next(row for row in rows if row["size"] == "16 x 64")["ratio"] < 1.05


def test_killed_studies_benchmark(tmp_path):
    done = run(ROOT / "examples/benchmarks/killed_studies.py", "--kills", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 of them lost" in done.stdout
    assert "1 of 1 resumed studies equal one that nobody disturbed" in done.stdout
