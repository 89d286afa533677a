"""Files of others are data: read, or refused with one of our errors."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from schedule_cases import LONG

from mdm_schedules.errors import FormatError, StorageError
from mdm_schedules.schedules import (
    Beta,
    EnergyOptimal,
    Linear,
    Schedule,
    Tabulated,
)


def write(folder: Path, document: Any, text: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(document) if text is None else text
    (folder / "schedule.json").write_text(content, encoding="utf-8", errors="surrogatepass")
    return folder


def document(name: object = "beta", params: object = None, **extra: object) -> dict[str, object]:
    params = {"a": 0.9, "b": 0.3} if params is None else params
    return {"format_version": "1.0", "time": "generation", "name": name, "params": params, **extra}


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
