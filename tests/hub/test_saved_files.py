"""Schedules as files: whole round trips, paths and links."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from schedule_cases import LONG, SHORT

import mdm_schedules as mdm
from mdm_schedules.errors import FormatError, InvalidTypeError, StorageError
from mdm_schedules.lookup import find_schedule
from mdm_schedules.schedules import (
    Beta,
    Cosine,
    EnergyOptimal,
    Geometric,
    Linear,
    Polynomial,
    Schedule,
)

EXAMPLES = [
    Linear(),
    Cosine(),
    Polynomial(1 / 3),
    Geometric(1e-12, 700),
    Beta(0.1 + 0.2, 5e-324),
    SHORT,
    LONG,
    EnergyOptimal(),
    EnergyOptimal(Beta(0.9, 0.3)),
    EnergyOptimal(EnergyOptimal(LONG)),
]


# --- round trips


@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda schedule: repr(schedule)[:40])
def test_what_is_saved_is_loaded(schedule: Schedule, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    schedule.save_pretrained(folder)
    for path in (folder, str(folder), folder / "schedule.json"):
        assert Schedule.from_pretrained(path) == schedule
    assert type(schedule).from_pretrained(folder) == schedule
    assert mdm.get_schedule(folder) == schedule
    files = sorted(file.name for file in folder.iterdir())
    long = len(repr(schedule)) > 1000
    assert files == (["schedule.json", "schedule.safetensors"] if long else ["schedule.json"])
    text = json.loads((folder / "schedule.json").read_text())
    assert text["time"] == "generation"
    assert len(json.dumps(text)) < 400


def test_the_format_is_what_it_was(tmp_path: Path) -> None:
    """A file of format 1.0, byte for byte: later versions must keep reading and writing it."""
    EnergyOptimal(Beta(0.9, 0.3)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "schedule.json").read_text()) == {
        "format_version": "1.0",
        "time": "generation",
        "name": "energy_optimal",
        "params": {"gamma": {"name": "beta", "params": {"a": 0.9, "b": 0.3}}},
    }
    EnergyOptimal(LONG).save_pretrained(tmp_path)
    # ends of a SHA-256 of the content
    names = ["gamma.alpha.9654b194d56ca54e", "gamma.t.e181b29224837096"]
    assert json.loads((tmp_path / "schedule.json").read_text())["params"] == {
        "gamma": {
            "name": "tabulated",
            "params": {"alpha": {"tensor": names[0]}, "t": {"tensor": names[1]}},
        }
    }
    tensors = load_file(tmp_path / "schedule.safetensors")
    assert sorted(tensors) == names
    assert {(value.dtype, len(value)) for value in tensors.values()} == {(torch.float64, 1000)}


def test_saving_over_another_schedule(tmp_path: Path) -> None:
    for schedule in (*EXAMPLES, *reversed(EXAMPLES)):
        schedule.save_pretrained(tmp_path)
        assert Schedule.from_pretrained(tmp_path) == schedule
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".tmp")]


def test_home_is_expanded_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Linear().save_pretrained("~/mine")
    assert (tmp_path / "mine" / "schedule.json").is_file()
    assert Schedule.from_pretrained("~/mine") == Linear()


def test_from_pretrained_of_a_family_wants_that_family(tmp_path: Path) -> None:
    Linear().save_pretrained(tmp_path)
    with pytest.raises(
        InvalidTypeError,
        match=r"holds linear\(\), which is not a Beta; use Schedule\.from_pretrained",
    ):
        Beta.from_pretrained(tmp_path)


def test_a_failed_save_leaves_the_old_files_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SHORT.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match=r"cannot write .*No space left on device"):
        LONG.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_readers_see_whole_files_while_others_write(tmp_path: Path) -> None:
    Linear().save_pretrained(tmp_path)
    failures: list[BaseException] = []

    def work(schedule: Schedule) -> None:
        try:
            for _ in range(20):
                schedule.save_pretrained(tmp_path)
                assert Schedule.from_pretrained(tmp_path) in EXAMPLES
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(schedule,)) for schedule in (Linear(), SHORT, LONG)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# --- paths


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd" / "schedule.json").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        ("missing", "no schedule at .*; save one with"),
        ("empty", "no schedule at .*; save one with"),
        ("odd", "no schedule at|not a file"),
        ("file/below", "cannot read"),
        ("pipe", "not a file"),
        ("a\0b", "null"),
        ("\ud800", "surrogates"),
        ("x" * 5000, "too long"),
    ):
        with pytest.raises(StorageError, match=words):
            Schedule.from_pretrained(tmp_path / path)
    with pytest.raises(StorageError, match="not a file"):
        Schedule.from_pretrained("/dev/zero")
    with pytest.raises(FormatError, match="not valid JSON"):
        Schedule.from_pretrained(tmp_path / "file")
    with pytest.raises(StorageError, match="home directory"):
        Schedule.from_pretrained("~nobody-has-this-name/x")


@pytest.mark.parametrize("bad", [None, 5, 0.5, ["x"], {}, Linear()])
def test_what_is_no_path(bad: object) -> None:
    with pytest.raises(InvalidTypeError, match=r"a path must be text or a pathlib\.Path, got"):
        Schedule.from_pretrained(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match=r"a path must be text or a pathlib\.Path, got"):
        Linear().save_pretrained(bad)  # type: ignore[arg-type]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "odd" / "schedule.json").mkdir(parents=True)
    for path in ("file", "file/below", "odd", "x" * 5000):
        with pytest.raises(StorageError, match=r"cannot (make|write)"):
            Linear().save_pretrained(tmp_path / path)
    with pytest.raises(StorageError, match=r"cannot use the path .* holds a null character"):
        Linear().save_pretrained(tmp_path / "a\0b")
    assert (tmp_path / "file").read_text() == "x"
    assert [file.name for file in (tmp_path / "odd").iterdir()] == ["schedule.json"]


# --- links


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    LONG.save_pretrained(tmp_path / "secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    link = folder / "schedule.json"
    link.symlink_to("../secret/schedule.json")
    for read in (mdm.get_schedule, find_schedule, lambda path: mdm.get_schedule(path, steps=8)):
        with pytest.raises(
            FormatError, match=r"schedule\.json is a link that leaves the folder, to .*secret"
        ):
            read(folder)
    link.unlink()
    (folder / "sub").symlink_to("../secret")
    index = {"format_version": "1.0", "schedules": [{"path": "sub", "schedule": "x"}]}
    (folder / "schedules.json").write_text(json.dumps(index))
    for read in (mdm.get_schedule, lambda path: mdm.get_schedule(path, subfolder="sub")):
        with pytest.raises(FormatError, match="link that leaves the folder"):
            read(folder)
    with pytest.raises(FormatError, match="link that leaves the folder"):
        find_schedule(folder, subfolder="sub")
    # the tensors alone
    shutil.copy(tmp_path / "secret" / "schedule.json", link)
    (folder / "schedule.safetensors").symlink_to(tmp_path / "secret" / "schedule.safetensors")
    for read in (
        mdm.get_schedule,
        find_schedule,
        lambda path: mdm.get_schedule(path / "schedule.json"),
    ):
        with pytest.raises(
            FormatError, match=r"schedule\.safetensors is a link that leaves the folder"
        ):
            read(folder)
    LONG.save_pretrained(folder)  # replaces the link, and leaves what it led to
    assert mdm.get_schedule(folder) == Schedule.from_pretrained(tmp_path / "secret") == LONG


def test_links_that_stay_inside_and_those_of_the_cache_are_followed(tmp_path: Path) -> None:
    LONG.save_pretrained(tmp_path / "real" / "deep")
    (tmp_path / "real" / "schedule.json").symlink_to("deep/schedule.json")
    (tmp_path / "real" / "schedule.safetensors").symlink_to("deep/schedule.safetensors")
    (tmp_path / "alias").symlink_to("real")
    repository = tmp_path / "models--lab--x"
    for place in ("", "sub/"):
        snapshot = repository / "snapshots" / ("a" * 40) / place
        snapshot.mkdir(parents=True)
        (repository / "blobs").mkdir(exist_ok=True)
        for name in ("schedule.json", "schedule.safetensors"):
            shutil.copy(tmp_path / "real" / name, repository / "blobs" / f"hash-{name}")
            (snapshot / name).symlink_to(
                os.path.relpath(repository / "blobs" / f"hash-{name}", snapshot)
            )
    snapshot = repository / "snapshots" / ("a" * 40)
    (tmp_path / "cached").symlink_to(snapshot)
    for path in ("real", "alias", "alias/deep", snapshot, snapshot / "sub", "cached"):
        assert mdm.get_schedule(tmp_path / path) == find_schedule(tmp_path / path) == LONG
    assert mdm.get_schedule(tmp_path / "cached", subfolder="sub") == LONG
