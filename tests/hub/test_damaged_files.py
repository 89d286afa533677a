"""Every truncation, and random damage: one of our errors, or a schedule."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from schedule_cases import LONG, SHORT

import mdm_schedules as mdm
from mdm_schedules.errors import FormatError, StorageError
from mdm_schedules.schedules import (
    Beta,
    EnergyOptimal,
    Geometric,
    Schedule,
    Tabulated,
)


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
