"""The command explore."""

import json
import re

import pytest

from mdm_schedules.cli import main
from mdm_schedules.information import InformationProfile


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.slow
def test_it_writes_a_page_with_a_sudoku_and_a_line_of_python(tmp_path, capsys):
    assert main(["explore", "--output", str(tmp_path / "page.html")]) == 0
    assert "open it in a browser" in capsys.readouterr().out
    recording, line = data_of(tmp_path / "page.html")["recordings"]
    one, two = recording["runs"]
    assert (one["schedule"], two["schedule"]) == ("linear()", "sine()")
    assert set("".join(two["pieces"])) == set("123456")
    for unit in recording["units"]:
        assert len({two["pieces"][cell] for cell in unit}) == 6, "sine solves the chosen puzzle"
    for run in line["runs"]:
        assert "".join(run["pieces"]).startswith("def ")
        assert max(run["when"]) == run["passes"] == 8


def test_it_records_any_model_and_shows_a_profile(tmp_path, capsys):
    InformationProfile([1.0, 0.5, 0.25]).save_pretrained(tmp_path / "mine")
    words = ["--record", "def f(", "--max-new-tokens", "12", "--steps", "3", "--under", "cosine"]
    words += [
        "--output",
        str(tmp_path / "page.html"),
        "--profile",
        str(tmp_path / "mine"),
        "--json",
    ]
    assert main(["explore", *words]) == 0
    done = json.loads(capsys.readouterr().out)
    data = data_of(tmp_path / "page.html")
    assert done["bytes"] == (tmp_path / "page.html").stat().st_size
    assert data["profiles"]["mine"]["h"] == [1, 0.5, 0.25]
    (run,) = data["recordings"][0]["runs"]
    assert run["passes"] == 3
    assert "".join(run["pieces"]).startswith("def f(")
    assert max(run["when"]) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--start", "sine"], "the sliders are those of a Beta"),
        (["--profile", "nowhere"], "nowhere"),
        (["--output", "no/such/folder/x.html"], "cannot write"),
        (["--record", "a", "--under", "nosuch"], "nosuch"),
    ],
)
def test_bad_input_is_told_in_one_line(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", *words]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("mdm-schedules: ")
    assert says in error
    assert not list(tmp_path.iterdir())
