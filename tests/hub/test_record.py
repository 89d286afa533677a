"""What stands in which of a schedule's two files, and how a folder is read that changes meanwhile."""

from __future__ import annotations

import json
import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from safetensors.torch import load_file
from schedule_cases import LONG

from mdm_schedules.errors import FormatError, MissingFileError, StorageError
from mdm_schedules.hub.record import Record, load_record, save_record
from mdm_schedules.schedules import Tabulated

OTHER = Tabulated(alpha=[(i / 30) ** 2 for i in range(31)])


def test_a_record_is_a_value() -> None:
    record = Record("linear", {})
    assert record == Record("linear", {})
    with pytest.raises(FrozenInstanceError):
        record.name = "beta"  # type: ignore[misc]


def test_sixteen_numbers_stand_in_the_text_and_seventeen_beside_it(tmp_path: Path) -> None:
    for count in (15, 16, 17):
        values = tuple(i / 16 for i in range(count))
        save_record(Record("mine", {"x": values}), tmp_path / str(count))
        names = sorted(file.name for file in (tmp_path / str(count)).iterdir())
        assert names == ["schedule.json", "schedule.safetensors"][: 1 + (count > 16)]
        assert load_record(tmp_path / str(count)).params["x"] == values
    # whole numbers, which float64 would change, stay in the text
    values = tuple(range(2**60, 2**60 + 20))
    save_record(Record("mine", {"x": values}), tmp_path / "ints")
    assert load_record(tmp_path / "ints").params["x"] == values


def test_schedules_inside_schedules_are_read_sixteen_deep(tmp_path: Path) -> None:
    def nested(depth: int) -> Record:
        record = Record("linear", {})
        for _ in range(depth):
            record = Record("energy_optimal", {"gamma": record})
        return record

    def depth(record: Record) -> int:
        return 1 + depth(record.params["gamma"]) if record.params else 0

    for levels in (1, 15, 16):
        save_record(nested(levels), tmp_path)
        assert depth(load_record(tmp_path)) == levels
    save_record(nested(17), tmp_path)
    with pytest.raises(FormatError, match="at most 16 deep"):
        load_record(tmp_path)


# --- one folder, saved into again


def test_a_saved_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for schedule in (LONG, OTHER, LONG, LONG):
        schedule.save_pretrained(tmp_path)
        used = json.loads((tmp_path / "schedule.json").read_text())["params"]
        assert sorted(load_file(tmp_path / "schedule.safetensors")) == sorted(
            value["tensor"] for value in used.values() if value
        )


def test_what_a_killed_save_left_is_swept_up_by_the_next(tmp_path: Path) -> None:
    litter = [tmp_path / f".{name}.x1.tmp" for name in ("schedule.json", "schedule.safetensors")]
    kept = [tmp_path / name for name in (".README.md.x1.tmp", "schedule.json.tmp", "notes.tmp")]
    for file in (*litter, *kept):
        file.write_text("x")
    OTHER.save_pretrained(tmp_path)
    assert not any(file.exists() for file in litter)
    assert all(file.exists() for file in kept)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_save_that_ends_after_some_writes_leaves_a_whole_schedule(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LONG.save_pretrained(tmp_path)
    done, replace = [], os.replace

    def some(*names: str) -> None:
        if len(done) == writes:
            raise OSError(28, "No space left on device")
        done.append(names)
        replace(*names)

    monkeypatch.setattr(os, "replace", some)
    with pytest.raises(StorageError, match="No space left"):
        OTHER.save_pretrained(tmp_path)
    # the tables of both, then the text, then the tables of the new one alone
    assert Tabulated.from_pretrained(tmp_path) == (OTHER if writes == 2 else LONG)


# --- one folder, read while it is saved into


def test_a_save_between_the_two_reads_is_read_again(tmp_path: Path) -> None:
    LONG.save_pretrained(tmp_path)
    asked = []

    def tensors() -> Path:
        if not asked:
            OTHER.save_pretrained(tmp_path)
        asked.append(1)
        return tmp_path / "schedule.safetensors"

    assert load_record(tmp_path, tensors) == load_record(tmp_path)
    assert len(asked) == 2
    assert Tabulated.from_pretrained(tmp_path) == OTHER


def test_a_folder_that_nobody_writes_is_read_twice_and_found_broken(tmp_path: Path) -> None:
    LONG.save_pretrained(tmp_path)
    (tmp_path / "schedule.safetensors").write_bytes(b"")
    asked = []

    def tensors() -> Path:
        asked.append(1)
        return tmp_path / "schedule.safetensors"

    with pytest.raises(FormatError, match="not a whole safetensors file"):
        load_record(tmp_path, tensors)
    assert len(asked) == 2


def test_a_folder_that_is_saved_again_and_again_is_busy(tmp_path: Path) -> None:
    LONG.save_pretrained(tmp_path)
    asked = []

    def tensors() -> Path:
        asked.append(1)
        (OTHER if len(asked) % 2 else LONG).save_pretrained(tmp_path)
        return tmp_path / "schedule.safetensors"

    with pytest.raises(StorageError, match="saved again and again while it is read; try later"):
        load_record(tmp_path, tensors)


def test_a_folder_without_a_schedule_says_how_one_gets_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"save one with schedule\.save_pretrained"):
        load_record(tmp_path)
