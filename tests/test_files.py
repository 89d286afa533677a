"""Files: limits at their edge, rights, what may not be read or written, and systems without locks."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rights import folder_of_ordinary_user, ordinary_user
from safetensors.torch import save_file

import mdm_schedules as mdm
from mdm_schedules.errors import FormatError, MissingFileError, StorageError
from mdm_schedules.files import (
    TensorFile,
    check_output,
    check_output_folder,
    dump_json,
    is_there,
    local_path,
    one_writer,
    read_bytes,
    read_json,
    write_atomically,
)

LIMIT = 2**20  # bytes of JSON; docs and other readers of the format know this number
TABLE = mdm.get_schedule("tabulated", alpha=[(i / 40) ** 1.5 for i in range(41)])


@pytest.fixture
def place() -> Iterator[Path]:
    with folder_of_ordinary_user() as folder:
        yield folder


# --- limits


def text_of(size: int) -> str:
    """A JSON object of so many bytes, as `dump_json` writes it."""
    empty = len(dump_json({"a": ""}, "it"))
    return dump_json({"a": "x" * (size - empty)}, "it")


def test_json_of_one_mebibyte_is_written_and_read_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text_of(LIMIT))
    assert file.stat().st_size == LIMIT
    assert list(read_json(file)) == ["a"]
    for size in (LIMIT + 1, 2 * LIMIT):
        with pytest.raises(FormatError, match=rf"it takes {size} bytes of JSON; at most {LIMIT}"):
            text_of(size)
    file.write_text(text_of(LIMIT) + "\n")
    with pytest.raises(FormatError, match=f"has more than {LIMIT} bytes"):
        read_json(file)


def test_tensors_of_64_mebibytes_are_read_and_no_more(tmp_path: Path) -> None:
    file, most = tmp_path / "a.safetensors", 2**26
    values = torch.zeros((most - 1024) // 8, dtype=torch.float64)
    save_file({"a": values}, file)
    missing = most - file.stat().st_size
    save_file({"a": values}, file, {"k": "x" * (missing - len('"__metadata__":{"k":""},'))})
    with open(file, "ab") as opened:
        opened.truncate(most)
    assert read_bytes(file, most) == file.read_bytes()
    with open(file, "ab") as opened:
        opened.write(b"\0")
    with pytest.raises(FormatError, match=f"has more than {most} bytes"):
        TensorFile(lambda: file)["a"]


def test_what_json_cannot_hold_is_refused() -> None:
    deep: dict[str, object] = {}
    for _ in range(sys.getrecursionlimit() + 100):
        deep = {"a": deep}
    for document in ({"a": float("nan")}, {"a": float("inf")}, {"a": {1}}, deep):
        with pytest.raises(FormatError, match="it cannot be written as JSON"):
            dump_json(document, "it")


def test_published_json_is_indented_by_two() -> None:
    """So that a schedule saved again shows the changed numbers only."""
    assert dump_json({"a": {"b": [1]}}, "it") == (
        '{\n  "a": {\n    "b": [\n      1\n    ]\n  }\n}\n'
    )


def test_the_text_in_a_tensor_files_header_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    for size in range(9):
        save_file({"a": torch.ones(2, dtype=torch.float64)}, file, {"k": "v" * size})
        tensors = TensorFile(lambda: file)
        assert (tensors.metadata, tensors["a"]) == ({"k": "v" * size}, (1.0, 1.0))
    save_file({"a": torch.ones(2, dtype=torch.float64)}, file)
    assert TensorFile(lambda: file).metadata == {}


@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.uint8, torch.bool])
def test_tensors_of_another_kind_are_named(kind: torch.dtype, tmp_path: Path) -> None:
    save_file({"a": torch.ones(8, dtype=kind)}, tmp_path / "a")
    with pytest.raises(FormatError, match=r"'a' must be float64 \[n\], got [IFUB][A-Z0-9]+ \[8\]"):
        TensorFile(lambda: tmp_path / "a")["a"]


# --- rights


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077])
def test_a_result_has_the_rights_of_any_new_file(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("")
        write_atomically(tmp_path / "ours", lambda name: Path(name).write_text("x"))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert modes == {0o666 & ~umask}


@pytest.mark.parametrize(
    ("mode", "usable"), [(0o700, True), (0o300, True), (0o500, False), (0o200, False), (0, False)]
)
def test_a_folder_is_written_to_where_its_rights_allow_it(
    mode: int, usable: bool, place: Path
) -> None:
    with ordinary_user():
        (place / "folder").mkdir()
        (place / "folder").chmod(mode)
    checks: list[Callable[[], object]] = [
        lambda: check_output(place / "folder" / "file"),
        lambda: check_output(place / "folder" / "file", make=True),
        lambda: check_output_folder(place / "folder" / "new"),
        lambda: check_output_folder(place / "folder"),
    ]
    with ordinary_user():
        for check in checks:
            if usable:
                check()
            else:
                with pytest.raises(StorageError, match="cannot write"):
                    check()


def refused(what: Callable[[], object], said: str) -> None:
    with pytest.raises(StorageError, match=said):
        what()


def test_what_may_not_be_looked_at_is_an_error_of_ours(place: Path) -> None:
    """Python up to 3.13 raises where a file in a closed folder is asked for."""
    denied = "Permission denied"
    with ordinary_user():
        TABLE.save_pretrained(place / "shut")
        (place / "shut").chmod(0)
        assert is_there(place / "shut" / "schedule.json")
        refused(lambda: mdm.get_schedule(str(place / "shut")), denied)
        refused(lambda: mdm.Schedule.from_pretrained(place / "shut"), denied)
        refused(lambda: mdm.Schedule.from_pretrained(place / "shut", subfolder="a"), denied)
        refused(lambda: mdm.Schedule.from_pretrained(place / "shut", steps=3), denied)
        refused(lambda: mdm.InformationProfile.from_pretrained(place / "shut"), "profile")
        refused(lambda: TABLE.save_pretrained(place / "shut"), denied)
        refused(lambda: TABLE.save_pretrained(place / "shut" / "new"), denied)


def test_a_folder_that_may_only_be_read_keeps_what_is_there(place: Path) -> None:
    with ordinary_user():
        TABLE.save_pretrained(place / "old")
        before = {file.name: file.read_bytes() for file in (place / "old").iterdir()}
        (place / "old").chmod(0o555)
        assert mdm.Schedule.from_pretrained(place / "old") == TABLE
        refused(lambda: mdm.get_schedule("linear").save_pretrained(place / "old"), "cannot write")
    assert {file.name: file.read_bytes() for file in (place / "old").iterdir()} == before


# --- paths


def test_a_missing_file_is_told_from_one_that_cannot_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert is_there(tmp_path / "file")
    for name in ("none", "file/below", "none/below", "loop", "a\0b", "x" * 5000):
        assert not is_there(tmp_path / name), name


def test_what_is_read_is_a_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(StorageError, match="is not a file"):
            read_bytes(tmp_path / name, 9)
    with pytest.raises(MissingFileError, match="there is no file"):
        read_bytes(tmp_path / "none", 9)
    with pytest.raises(StorageError, match="cannot read"):
        read_bytes(tmp_path / "a\0b", 9)
    with pytest.raises(StorageError, match=r"cannot use the path '~nobody-of-this-name"):
        local_path("~nobody-of-this-name/a")


# --- writers


def test_a_system_without_locks_saves_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_writer(tmp_path) as alone:
        assert alone

    def refuse(handle: int, how: int) -> None:
        raise OSError("no locks on this file system")

    monkeypatch.setattr("fcntl.flock", refuse)
    with one_writer(tmp_path) as alone:
        assert not alone
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with one_writer(tmp_path) as alone:
        assert not alone
    TABLE.save_pretrained(tmp_path)
    assert mdm.Schedule.from_pretrained(tmp_path) == TABLE


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("old")

    def half(name: str) -> None:
        Path(name).write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, half)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert file.read_text() == "old"
    assert json.loads(dump_json({}, "it")) == {}
