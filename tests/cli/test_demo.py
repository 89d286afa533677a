"""The command demo, on a terminal and off it."""

import io
import json
import re

import pytest

from mdm_schedules.cli import main
from mdm_schedules.demo import tasks
from mdm_schedules.demo.terminal import grids, play, screen_of
from mdm_schedules.explorer import Recording, Run

GRID = Recording(
    "grid",
    "two rows",
    (
        Run("linear()", 2, ("1", "1", "2", "3"), (0, 1, 2, 2)),
        Run("sine()", 2, ("1", "2", "2", "1"), (0, 1, 2, 2)),
    ),
    2,
    ((0, 1), (2, 3)),
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def quick(monkeypatch, tmp_path):
    few = {kind: found[:3] for kind, found in tasks.gaps().items()}
    monkeypatch.setattr(tasks, "gaps", lambda: few)
    monkeypatch.setattr(tasks, "STEPS", (6, 24))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_it_reports_every_cell_and_draws_the_picture_last(quick, capsys, monkeypatch):
    words = ["demo", "--puzzles", "6", "--schedule", "linear", "--schedule", "sine"]
    assert main([*words, "--json", "--output", "demo.gif"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["accuracy"]) == {"linear()", "sine()"}
    assert set(shown["accuracy"]["sine()"]) == {"6", "24"}
    for kind, found in tasks.gaps().items():
        assert [gap["hidden"] for gap in shown["gaps"][kind]] == [gap[1] for gap in found]
        for gap in shown["gaps"][kind]:
            assert gap["filled"].startswith(gap["before"][:-20]), "only the gap changes"
            assert gap["passes"] == -(-gap["tokens"] // 2)
    assert set(shown["gap_rates"]["line"]) == {"exact", "parses"}
    with open("demo.gif", "rb") as file:
        assert file.read(6) == b"GIF89a"

    def fails(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("mdm_schedules.plotting.plot_quality", fails)
    assert main([*words, "--output", "demo.png"]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == "mdm-schedules: disk full"
    assert "| linear() |" in out
    assert "\x1b" not in out, "plain text when piped"
    assert "!" in out, "conflicts are marked without colour"


@pytest.mark.slow
def test_the_code_model_knows_python():
    rates = {}
    for kind, found in tasks.gaps().items():
        rows = [
            {"before": a, "hidden": b, "after": c, "filled": tasks.fill_gap("linear", a, b, c)[0]}
            for a, b, c in found
        ]
        rates[kind] = tasks.gap_rates(rows)
    assert rates["argument"]["exact"][0] >= 40
    assert rates["line"]["parses"][0] >= 70


def test_the_page_holds_the_run_and_the_table(quick):
    assert main(["demo", "--puzzles", "4", "--output", "demo.html"]) == 0
    with open("demo.html", encoding="utf-8") as file:
        data = json.loads(re.search(r'id="data">(.*?)</script>', file.read(), re.DOTALL)[1])
    assert [row[0] for row in data["table"]["rows"]] == ["linear()", "cosine()", "sine()"]
    assert data["recordings"][0]["columns"] == 6


@pytest.mark.parametrize("name", ["demo.txt", "no/such/folder/demo.gif"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(name, quick, capsys):
    assert main(["demo", "--output", name]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_a_terminal_is_drawn_over_and_gets_its_cursor_back(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream, waits = Terminal(), []
    play(GRID, 0.5, stream, waits.append)
    text = stream.getvalue()
    assert waits == [0.5] * 3
    assert text.count("\x1b[5A") == 2, "passes 1 and 2 stand where pass 0 stood"
    assert text.index("\x1b[?25l") < text.index("\x1b[?25h")
    assert "\x1b[1;37;41m!1!\x1b[0m" in text

    def stops(_):
        raise KeyboardInterrupt

    stream = Terminal()
    with pytest.raises(KeyboardInterrupt):
        play(GRID, 0.5, stream, stops)
    assert stream.getvalue().endswith("\x1b[?25h\n")


def test_no_colour_and_dumb_terminals_are_heeded(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert screen_of(Terminal()).live
    assert not screen_of(Terminal()).colour
    monkeypatch.setenv("TERM", "dumb")
    assert not screen_of(Terminal()).live
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    play(GRID, 1, stream)
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")
    assert "2 to go" not in text, "only the first and the last pass"
    assert "not solved, 2 wrong" in text


def test_a_narrow_terminal_has_one_grid_below_the_other(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    wide = grids(GRID, 2, screen_of(Terminal()))
    monkeypatch.setenv("COLUMNS", "30")
    narrow = grids(GRID, 2, screen_of(Terminal()))
    assert wide[0].split() == ["linear()", "sine()"]
    assert max(map(len, narrow)) <= 30
    assert [line for line in narrow if line.endswith("()")] == ["linear()", "sine()"]
