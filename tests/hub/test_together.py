"""One folder that is read while others write it, and files that do not belong together."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mdm_schedules.errors import FormatError
from mdm_schedules.lookup import get_schedule
from mdm_schedules.schedules import Schedule


def _tables(folder: Path, seconds: float) -> None:
    shapes = [
        get_schedule("tabulated", alpha=[(j / n) ** p for j in range(n + 1)])
        for n in (30, 200)
        for p in (1.0, 1.5, 2.0)
    ]
    end, i = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        shapes[i % len(shapes)].save_pretrained(folder)
        i += 1


@pytest.mark.slow
def test_a_table_that_is_saved_meanwhile_is_read_whole_or_refused_as_busy(tmp_path: Path) -> None:
    get_schedule("tabulated", alpha=[j / 30 for j in range(31)]).save_pretrained(tmp_path)
    saver = multiprocessing.get_context("spawn").Process(target=_tables, args=(tmp_path, 4.0))
    saver.start()
    try:
        while saver.is_alive():
            assert Schedule.from_pretrained(tmp_path).name == "tabulated"
    finally:
        saver.join()
    assert saver.exitcode == 0


@pytest.mark.parametrize("power", [0.5, 1.5, 2, 3, 4])
def test_a_tensor_that_is_not_what_its_name_says_is_refused(tmp_path: Path, power: float) -> None:
    get_schedule("tabulated", alpha=[j / 30 for j in range(31)]).save_pretrained(tmp_path)
    file = tmp_path / "schedule.safetensors"
    names = load_file(file)
    save_file({key: value**power for key, value in names.items()}, file)
    with pytest.raises(FormatError, match="does not hold what its name says"):
        Schedule.from_pretrained(tmp_path)


def test_each_of_the_two_files_is_opened_once_for_one_reading(tmp_path: Path) -> None:
    get_schedule("tabulated", alpha=[j / 30 for j in range(31)]).save_pretrained(tmp_path)
    opened, watching = [], True
    sys.addaudithook(
        lambda event, args: opened.append(str(args[0])) if watching and event == "open" else None
    )
    Schedule.from_pretrained(tmp_path)
    watching = False
    for name in ("schedule.json", "schedule.safetensors"):
        assert sum(path == str(tmp_path / name) for path in opened) == 1
