"""Schedules as files: whole round trips, and foreign files read as data or refused.

A refusal is always one of our errors.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

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
    Tabulated,
)

LONG = Tabulated(np.linspace(0, 1, 1000) ** 2, np.linspace(0, 1, 1000) ** 0.5)  # type: ignore[arg-type]
SHORT = Tabulated([0, 0.1 + 0.2, 1])
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


def write(folder: Path, document: Any, text: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(document) if text is None else text
    (folder / "schedule.json").write_text(content, encoding="utf-8", errors="surrogatepass")
    return folder


def document(name: object = "beta", params: object = None, **extra: object) -> dict[str, object]:
    params = {"a": 0.9, "b": 0.3} if params is None else params
    return {"format_version": "1.0", "time": "generation", "name": name, "params": params, **extra}


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
    for path in ("file", "file/below", "odd", "a\0b", "x" * 5000):
        with pytest.raises(StorageError, match=r"cannot (make|write)"):
            Linear().save_pretrained(tmp_path / path)
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


# --- content


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"format_version": "1.0"',
        "null",
        "[]",
        "5",
        '"linear"',
        "linear",
        "\ufeff{}",
        '{"format_version": "1.0", "time": "generation", "name": "linear"}}',
        '{"name": "linear", "name": "linear"}',
        '{"format_version": "1.0", "time": "generation", "name": "beta", "params": {"a": 1, "a": 2, "b": 1}}',
        '{"format_version": "1.0", "time": "generation", "name": "beta", "params": {"a": NaN, "b": 1}}',
        '{"format_version": "1.0", "time": "generation", "name": "beta", "params": {"a": -Infinity, "b": 1}}',
        '{"format_version": "1.0", "time": "generation", "name": "beta", "params": {"a": 1e999, "b": 1}}',
        '{"format_version": "1.0", "time": "generation", "name": "beta", "params": {"a": '
        + "9" * 5000
        + ', "b": 1}}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"format_version": "1.0", "time": "generation", '
        + '"name": "energy_optimal", "params": {"gamma": {' * 100
        + '"name": "linear"'
        + "}}" * 100
        + "}",
        "\ud800",
    ],
    ids=lambda text: text[-30:],
)
def test_text_that_is_no_schedule(text: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"schedule\.json"):
        Schedule.from_pretrained(write(tmp_path, None, text))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "format_version"),
        (document(format_version=None), "format_version must be text like '1.0', got None"),
        (document(format_version=1.0), "got 1.0"),
        (document(format_version=""), "got ''"),
        (document(format_version="one"), "got 'one'"),
        (document(format_version="²"), "format_version"),
        (document(format_version="1.0; rm"), "format_version"),
        (document(format_version="9" * 100), "format_version"),
        (
            document(format_version="2.0"),
            r"format version 2\.0; this library reads 1\.0: upgrade mdm-schedules",
        ),
        (document(format_version="37"), "format version 37; .*upgrade"),
        (document(time="noise"), "time must be 'generation', got 'noise'"),
        (document(time=None), "time must be"),
        (document(name=None), "needs a name"),
        (document(name=["beta"]), "needs a name"),
        (document(name="bta"), "no schedule is named 'bta'. Did you mean 'beta'"),
        (document(name="__import__('os').system('x')"), "no schedule is named"),
        (document(name="\ud800"), "no schedule is named"),
        (document(params=5), "params"),
        (document(params=[0.9, 0.3]), "params"),
        (document(params={}), "missing"),
        (document(params={"a": 1, "b": 1, "c": 1}), "no parameter 'c'"),
        (document(params={"a": "1", "b": 1}), "a must be"),
        (document(params={"a": [1], "b": 1}), "a must be"),
        (document(params={"a": True, "b": 1}), "a must be"),
        (document(params={"a": None, "b": 1}), "a must be"),
        (document(params={"a": 0, "b": 1}), "a must be"),
        (document(params={"a": {"name": "linear"}, "b": 1}), "a must be"),
        (document(params={"a": {}, "b": 1}), "needs a name"),
        (document("tabulated", {"alpha": [0, "x", 1]}), "alpha must be"),
        (document("tabulated", {"alpha": [0, 0.5]}), "exactly 1"),
        (document("tabulated", {"alpha": "01"}), "alpha must be"),
        (document("tabulated", {"alpha": [[0, 1]]}), "alpha must be"),
        (document("energy_optimal", {"gamma": 5}), "gamma must be"),
        (document("energy_optimal", {"gamma": [0, 1]}), "gamma must be"),
        (document("energy_optimal", {"gamma": "/etc/passwd"}), "no schedule is named"),
    ],
)
def test_documents_that_are_no_schedule(
    content: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        Schedule.from_pretrained(write(tmp_path, content))
    assert str(tmp_path) in str(caught.value)


def test_what_a_later_minor_version_may_add_is_passed_over(tmp_path: Path) -> None:
    content = document(
        format_version="1.7.2", license="mit", metrics={"gsm8k": [0.5, None, {"x": 1}]}
    )
    assert Schedule.from_pretrained(write(tmp_path, content)) == Beta(0.9, 0.3)
    nested = document("energy_optimal", {"gamma": {"name": "linear", "note": "x"}})
    assert Schedule.from_pretrained(write(tmp_path, nested)) == EnergyOptimal(Linear())
    without = document("linear")
    del without["params"]
    assert Schedule.from_pretrained(write(tmp_path, without)) == Linear()


def test_huge_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    for name, size in (("schedule.json", 1 << 40), ("schedule.safetensors", 1 << 40)):
        LONG.save_pretrained(tmp_path)
        with open(tmp_path / name, "r+b") as file:
            file.truncate(size)  # sparse: takes no room
        with pytest.raises(FormatError, match=r"more than \d+ bytes"):
            Schedule.from_pretrained(tmp_path)


# --- tensors


def table(
    folder: Path, tensors: dict[str, torch.Tensor] | None, reference: object = "alpha"
) -> Path:
    write(folder, document("tabulated", {"alpha": {"tensor": reference}}))
    if tensors is not None:
        save_file(tensors, folder / "schedule.safetensors")
    return folder


KNOTS = torch.tensor([0, 0.5, 1], dtype=torch.float64)


def test_tensor_names_are_keys_and_no_paths(tmp_path: Path) -> None:
    save_file({"alpha": KNOTS}, tmp_path / "outside.safetensors")
    for name in (
        "/etc/passwd",
        "../outside.safetensors",
        str(tmp_path / "outside.safetensors"),
        "..",
        "",
        "alpha\0",
    ):
        with pytest.raises(FormatError, match="has no tensor"):
            Schedule.from_pretrained(table(tmp_path / "a", {"alpha": KNOTS}, name))
        assert Schedule.from_pretrained(table(tmp_path / "b", {name: KNOTS}, name)) == Tabulated(
            [0, 0.5, 1]
        )
    for name in (None, 5, ["alpha"], {"tensor": "alpha"}, True):
        with pytest.raises(FormatError, match="has no tensor"):
            Schedule.from_pretrained(table(tmp_path / "a", {"alpha": KNOTS}, name))


@pytest.mark.parametrize(
    "tensor",
    [
        KNOTS.float(),
        KNOTS.half(),
        KNOTS.bfloat16(),
        KNOTS.long(),
        KNOTS.bool(),
        KNOTS[None].clone(),
        torch.tensor(1.0, dtype=torch.float64),
        torch.zeros(0, dtype=torch.float64),
        torch.tensor([0, torch.nan, 1], dtype=torch.float64),
        torch.tensor([0, torch.inf, 1], dtype=torch.float64),
        torch.tensor([0, 0.7, 0.6, 1], dtype=torch.float64),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tensor.tolist()}",
)
def test_tensors_of_a_wrong_kind(tensor: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="alpha"):
        Schedule.from_pretrained(table(tmp_path, {"alpha": tensor}))


def test_the_tensor_file_is_missing_or_no_file(tmp_path: Path) -> None:
    table(tmp_path, None)
    with pytest.raises(
        StorageError, match=r"schedule\.safetensors is missing, which schedule\.json refers to"
    ):
        Schedule.from_pretrained(tmp_path)
    (tmp_path / "schedule.safetensors").mkdir()
    with pytest.raises(StorageError, match="not a file"):
        Schedule.from_pretrained(tmp_path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    write(tmp_path, document("tabulated", {"alpha": {"tensor": "alpha"}}))
    torch.save({"alpha": Trap()}, tmp_path / "schedule.safetensors")
    for content in (
        pickle.dumps({"alpha": Trap()}),
        (tmp_path / "schedule.safetensors").read_bytes(),
    ):
        for name in ("schedule.safetensors", "schedule.json"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FormatError):
                Schedule.from_pretrained(tmp_path)
            write(tmp_path, document("tabulated", {"alpha": {"tensor": "alpha"}}))
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    "header", [b"", b"{", b"[]", b"null", b'{"alpha": 5}', b'{"alpha": {"dtype": "F64"}}']
)
def test_safetensors_headers_that_are_none(header: bytes, tmp_path: Path) -> None:
    table(tmp_path, None)
    for length in (len(header), 0, 2**40, 2**64 - 1):
        (tmp_path / "schedule.safetensors").write_bytes(struct.pack("<Q", length) + header)
        with pytest.raises(FormatError):
            Schedule.from_pretrained(tmp_path)


def test_offsets_that_lie(tmp_path: Path) -> None:
    table(tmp_path, None)
    for shape, offsets in (
        ([3], [0, 8]),
        ([2**60], [0, 2**63]),
        ([1], [8, 0]),
        ([-1], [0, 8]),
        ([2**32, 2**32], [0, 0]),
    ):
        header = json.dumps(
            {"alpha": {"dtype": "F64", "shape": shape, "data_offsets": offsets}}
        ).encode()
        data = struct.pack("<Q", len(header)) + header + bytes(24)
        (tmp_path / "schedule.safetensors").write_bytes(data)
        with pytest.raises(FormatError):
            Schedule.from_pretrained(tmp_path)


def test_one_tensor_named_a_thousand_times_is_read_once(tmp_path: Path) -> None:
    """A small file must not make us allocate without limit."""
    params = {f"x{number}": {"tensor": "alpha"} for number in range(1000)}
    write(tmp_path, document("tabulated", params))
    save_file(
        {"alpha": torch.zeros(1 << 20, dtype=torch.float64)}, tmp_path / "schedule.safetensors"
    )
    with pytest.raises(FormatError, match="no parameter 'x0'"):
        Schedule.from_pretrained(tmp_path)


# --- every truncation, and random damage


def test_truncated_files(tmp_path: Path) -> None:
    EnergyOptimal(LONG).save_pretrained(tmp_path)
    for name, step in (("schedule.json", 1), ("schedule.safetensors", 397)):
        whole = (tmp_path / name).read_bytes()
        for length in range(0, len(whole.rstrip()), step):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(FormatError):
                Schedule.from_pretrained(tmp_path)
        (tmp_path / name).write_bytes(whole)
    assert Schedule.from_pretrained(tmp_path) == EnergyOptimal(LONG)


PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"0",
    b"-",
    b"1e400",
    b"NaN",
    b"null",
    b"true",
    b"\x00",
    b"\xff",
]
PIECES += [
    b'{"tensor": "alpha"}',
    b'{"name": "linear"}',
    b"[0, 1]",
    b"\\ud800",
    b'"/"',
    b"1.0",
    b"9" * 400,
    b"energy_optimal",
]


def damaged(content: bytes, source: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(source.choice([1, 1, 2, 5])):
        start = source.randrange(len(data) + 1)
        end = min(len(data), start + source.choice([0, 1, 1, 2, 8, 40]))
        piece = source.choice(
            [b"", bytes([source.randrange(256)]), source.choice(PIECES), data[:start][-20:]]
        )
        data[start:end] = piece
    return bytes(data)


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_gives_our_error_or_a_schedule(seed: int, tmp_path: Path) -> None:
    source = random.Random(seed)
    small = Tabulated(np.linspace(0, 1, 17))  # type: ignore[arg-type]
    for schedule in (Beta(0.9, 0.3), SHORT, small, EnergyOptimal(EnergyOptimal(Geometric()))):
        schedule.save_pretrained(tmp_path)
        whole = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        for _ in range(25):
            name = source.choice(sorted(whole))
            (tmp_path / name).write_bytes(damaged(whole[name], source))
            try:
                read = Schedule.from_pretrained(tmp_path)
            except (FormatError, StorageError) as error:
                message = str(error)
            else:
                message = ""
                assert read.alpha(0.0) == 0
                assert read.alpha(1.0) == 1
                assert 0 < read.alpha(0.5) < 1 or isinstance(read, Beta)
                assert mdm.get_schedule(repr(read)) == read
            assert len(message) < 2000
            (tmp_path / name).write_bytes(whole[name])
