"""The command line, used as a user types it."""

import json
import subprocess
import sys

import pytest

import mdm_schedules as mdm
from mdm_schedules.cli import main
from mdm_schedules.demo import tasks as demo


def run(capsys, *words):
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_list_and_show(capsys):
    status, out, _ = run(capsys, "list", "--json")
    assert status == 0
    assert {"linear", "beta", "tabulated"} <= {row["name"] for row in json.loads(out)}
    status, out, _ = run(
        capsys, "show", "beta(a=0.9, b=0.3)", "--num-tokens", "64", "--steps", "8", "--json"
    )
    shown = json.loads(out)
    assert status == 0
    assert shown["plan"] == mdm.Beta(0.9, 0.3).plan(64, 8).tolist()
    assert shown["alpha"][0] == 0
    assert shown["alpha"][-1] == 1
    assert "plan for 64 tokens" in run(capsys, "show", "linear", "--num-tokens", "64")[1]


def test_energy_says_what_is_infinite(capsys):
    status, out, _ = run(
        capsys, "energy", "beta(a=0.9, b=0.6)", "--gamma", "squared_sine", "--steps", "8", "--json"
    )
    shown = json.loads(out)
    assert status == 0
    assert shown["excess"] == mdm.energy_excess("beta(a=0.9, b=0.6)")
    assert shown["discrete_energy"] == mdm.discrete_energy("beta(a=0.9, b=0.6)", 8)
    assert "= 1 * pi^2" in run(capsys, "energy", "squared_sine")[1]
    assert json.loads(run(capsys, "energy", "linear", "--json")[1])["excess"] is None
    assert "infinite" in run(capsys, "energy", "linear")[1]
    assert run(capsys, "energy", "linear", "--gamma", "lineer")[0] == 1


def test_plot_writes_a_picture(capsys, tmp_path):
    picture = tmp_path / "curves.png"
    status, out, _ = run(capsys, "plot", "linear", "beta(1, 0.2)", "--output", str(picture))
    assert status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in out


def test_errors_are_one_line_and_status_one(capsys, tmp_path):
    for words in (
        ("show", "lineer"),
        ("show", "beta(a=0, b=1)"),
        ("plot", "linear", "--output", str(tmp_path / "no" / "such" / "x.png")),
        ("sample", "--prompt", "x", "--model", str(tmp_path), "--max-new-tokens", "4"),
        ("sample", "--prompt", "x", "--max-new-tokens", "100000"),
        ("sample", "--prompt", "x", "--max-new-tokens", "4", "--dtype", "foo"),
        ("sample", "--prompt", "x", "--max-new-tokens", "4", "--dtype", "int8"),
        ("sample", "--prompt", "x", "--max-new-tokens", "4", "--device", "nowhere"),
        ("plot", "linear", "--output", str(tmp_path / "a.xyz")),
        ("plot", "linear", "--output", str(tmp_path)),
        ("demo", "--output", str(tmp_path / "a.xyz")),
        ("demo", "--output", str(tmp_path / "no" / "such" / "x.png")),
        ("sample", "--prompt", "x"),
    ):
        status, out, err = run(capsys, *words)
        assert (status, out) == (1, "")
        assert err.startswith("mdm-schedules: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "--no-such-option"],
        ["demo", "--puzzles", "-3"],
        ["show", "linear", "--steps", "0"],
    ],
)
def test_wrong_usage_is_status_two(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [AssertionError("Torch not compiled with CUDA enabled"), NotImplementedError("no")]
)
def test_a_device_that_torch_was_not_built_for(error, capsys, monkeypatch):
    def empty(*_, **__):
        raise error

    monkeypatch.setattr("torch.empty", empty)
    status, _, err = run(capsys, "sample", "--prompt", "x", "--device", "cuda")
    assert status == 1
    assert (
        err
        == f"mdm-schedules: --device cuda cannot be used here: {error}; --device cpu always can\n"
    )


def test_a_model_that_is_not_there_is_told_as_such(capsys, tmp_path):
    for place, says in ((tmp_path, "no config.json"), (tmp_path / "no", "there is no folder")):
        err = run(capsys, "sample", "--prompt", "x", "--model", str(place))[2]
        assert says in err
        assert str(place) in err


@pytest.mark.slow
def test_a_closed_pipe_is_no_error():
    command = [
        sys.executable,
        "-c",
        "import sys; from mdm_schedules.cli import main; sys.exit(main(['list']))",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_steps_choose_the_schedule_of_a_preset(capsys):
    status, out, _ = run(capsys, "show", "preset:llada-8b/mbpp", "--steps", "16", "--json")
    assert status == 0
    assert json.loads(out)["schedule"] == mdm.get_schedule("preset:llada-8b/mbpp", steps=16).spec


def test_sample_is_repeatable(capsys):
    words = (
        "sample",
        "--prompt",
        "def f(",
        "--max-new-tokens",
        "12",
        "--steps",
        "4",
        "--temperature",
        "1",
        "--json",
    )
    status, out, _ = run(capsys, *words, "--remasking", "random", "--seed", "3")
    first = json.loads(out)
    assert status == 0
    assert first["nfe"] == 4
    assert first["text"].startswith("def f(")
    assert (
        json.loads(run(capsys, *words, "--remasking", "random", "--seed", "3")[1])["tokens"]
        == first["tokens"]
    )


def test_sample_fills_a_sudoku_with_dots(capsys):
    puzzle = "123456" + "456123" + "2" + "." * 23
    status, out, _ = run(capsys, "sample", "--model", "sudoku", "--prompt", puzzle, "--json")
    assert status == 0
    digits = [c for c in json.loads(out)["text"] if c.isdigit()]
    assert len(digits) == 36
    assert "".join(digits).startswith(puzzle[:13])


@pytest.mark.slow
def test_the_sudoku_model_is_as_good_as_its_card_says():
    accuracy, error, passes = demo.sudoku_accuracy("linear", None, puzzles=60)
    assert passes == 30
    assert accuracy > 0.95 - 3 * error
    few, _, _ = demo.sudoku_accuracy("linear", 5, puzzles=60)
    assert few < accuracy - 0.3, "few steps must visibly hurt"
