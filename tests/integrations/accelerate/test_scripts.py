"""The command line on several processes, the example, and the benchmark scripts at small sizes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mdm_schedules.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def run(*words, cwd):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *map(str, words)]
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def values(path, name):
    return [json.loads(line)[name] for line in path.read_text().splitlines()]


def test_the_command_on_two_processes(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "def f("}\n{"prompt": "import "}\n{"prompt": 7}\n["class"]\n'
    )
    words = [
        "-m",
        "mdm_schedules.cli",
        "sample",
        "--prompts",
        "p.jsonl",
        "--output",
        "out.jsonl",
        "--json",
    ]
    words += ["--steps", 4, "--max-new-tokens", 8, "--num-processes", 2]
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    told = [line for line in done.stderr.splitlines() if line.startswith("mdm-schedules: ")]
    assert len(told) == 1, done.stderr  # one process prints it, not each
    assert "line 3 of p.jsonl: a prompt must be text or a flat list of token ids, got 7" in told[0]
    done = run(*words, "--on-error", "skip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == 2
    assert values(tmp_path / "out.jsonl", "index") == [0, 1, 2, 3]


def test_the_example_under_accelerate_launch(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "def f(", "id": "a"}\n{"prompt": "import ", "id": "b"}\n'
    )
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        2,
        "--num_machines",
        1,
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
    words = [
        ROOT / "examples/distributed_sampling.py",
        "--prompts",
        "p.jsonl",
        "--output",
        "out.jsonl",
    ]
    done = run(*launch, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("DistributedOutput(prompts=2") == 1
    assert values(tmp_path / "out.jsonl", "id") == ["a", "b"]


def test_the_benchmarks(tmp_path):
    words = ["--prompts", 16, "--runs", 1, "--memory", 200]
    done = run(ROOT / "examples/benchmarks/distributed_throughput.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "200 prompts: " in done.stdout
    assert "| 2 | " in done.stdout
    naive, ours = map(
        float, re.findall(r"([0-9.]+) in the order of arrival, ([0-9.]+) here", done.stdout)[0]
    )
    assert naive > 10 * ours
    done = run(
        ROOT / "examples/benchmarks/killed_sampling.py", "--kills", 1, "--prompts", 16, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "each file identical to the undisturbed run" in done.stdout


def test_sample_a_file(tmp_path, capsys):
    prompts = tmp_path / "p.txt"
    prompts.write_text("def f(\nimport \n" + "(" + "x, " * 200 + "\n")
    words = [
        "sample",
        "--prompts",
        str(prompts),
        "--output",
        str(tmp_path / "out.jsonl"),
        "--max-new-tokens",
        "8",
    ]
    words += ["--steps", "4", "--seed", "1", "--batch-size", "2"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("mdm-schedules: line 3 of p.txt: prompt and answer take 4")
    assert error.count("\n") == 1
    assert main([*words, "--on-error", "skip", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["prompts"], shown["skipped"], shown["seed"], shown["schedule"]) == (
        3,
        1,
        1,
        "linear()",
    )
    assert values(tmp_path / "out.jsonl", "index") == [0, 1, 2]
    assert main([*words, "--on-error", "skip", "--schedule", "sine"]) == 1
    assert "schedule was 'linear()', now 'sine()'" in capsys.readouterr().err
    assert main([*words, "--on-error", "skip", "--schedule", "sine", "--overwrite"]) == 0
    capsys.readouterr()
    for wrong in (
        ["sample"],
        ["sample", "--prompt", "x", "--output", "y"],
        ["sample", "--prompt", "x", "--num-processes", "2"],
        [*words, "--num-processes", "0"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
        capsys.readouterr()


def test_sudokus_from_a_file_equal_those_of_the_command(tmp_path, capsys):
    puzzle = "123456" + "456123" + "2" + "." * 23
    (tmp_path / "p.txt").write_text(puzzle + "\n" + puzzle[:8] + "." * 28 + "\n")
    words = ["sample", "--model", "sudoku"]
    assert (
        main(
            [*words, "--prompts", str(tmp_path / "p.txt"), "--output", str(tmp_path / "out.jsonl")]
        )
        == 0
    )
    capsys.readouterr()
    assert main([*words, "--prompt", puzzle, "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["tokens"] == values(tmp_path / "out.jsonl", "tokens")[0]
    )
