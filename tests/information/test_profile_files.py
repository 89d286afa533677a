"""Profiles as files: what a round trip keeps, and what a file must not claim."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdm_schedules import InformationProfile
from mdm_schedules.errors import FormatError, StorageError
from mdm_schedules.information.calibration import Calibration, CalibrationRange
from mdm_schedules.information.estimate import Measurement
from mdm_schedules.information.files import load_profile, save_profile

H = (3.0, 2.0, 2.0, 0.0)
CALIBRATION = Calibration(
    counts=(0, 3),
    entropy=(0.0, 0.5),
    cross_entropy=(0.25, 0.0),
    errors=(0.0, 0.125),
    ranges=(
        CalibrationRange(0, 0, 0.0, 0.25, 0.0, True),
        CalibrationRange(3, 3, 0.5, 0.0, 0.125, False),
    ),
    num_tokens=4,
)
MEASURED = Measurement(
    counts=(0, 3),
    means=(3.0, 0.0),
    standard_errors=(0.0, 0.1),
    passes=0,
    sequences=0,
    method="entropy",
    seed=0,
    curve="isotonic",
    held_out=(("beta", 1.5), ("convex", -0.5)),
    calibration=CALIBRATION,
)


@pytest.mark.parametrize(
    ("h", "measurement"),
    [
        (H, None),
        (H, MEASURED),
        (H, replace(MEASURED, calibration=None)),
        (H, replace(MEASURED, counts=(0, 1, 2, 3), means=(1, 2, 3, 4), standard_errors=(0,) * 4)),
        # cross-entropies may rise
        ((1.0, 2.0, 0.5, 0.1 + 0.2), replace(MEASURED, method="cross_entropy")),
    ],
)
def test_every_bit_of_a_profile_comes_back(h, measurement, tmp_path):
    save_profile(tmp_path / "new" / "folder", h, measurement)
    assert load_profile(tmp_path / "new" / "folder") == (h, measurement)
    found = InformationProfile.from_pretrained(tmp_path / "new" / "folder")
    assert (tuple(found.h.tolist()), found.measurement) == (h, measurement)


def test_a_number_that_json_cannot_hold_is_not_saved(tmp_path):
    broken = replace(MEASURED, held_out=(("beta", float("nan")),))
    with pytest.raises(ValueError, match="JSON"):
        save_profile(tmp_path, H, broken)
    assert not list(tmp_path.iterdir())


def test_what_hinders_a_save_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot make the folder .*: File exists$"):
        save_profile(tmp_path / "file", H, None)
    with pytest.raises(StorageError, match=r"cannot use the path .*null"):
        save_profile(tmp_path / "a\0b", H, None)


def test_a_later_minor_version_is_read_and_a_later_major_one_is_not(tmp_path):
    def written(version):
        told = json.dumps({"format_version": version, "measurement": None, "new": 1})
        tensors = {"h": torch.tensor(H, dtype=torch.float64)}
        save_file(tensors, tmp_path / "profile.safetensors", {"information_profile": told})

    for version in ("1.0", "1.1", "1.2", "1.99"):
        written(version)
        assert load_profile(tmp_path) == (H, None)
    for version in ("2.0", "0.1", "11.1", "", 1.1, None):
        written(version)
        with pytest.raises(FormatError, match=r"format version .*; this library reads 1\.1"):
            load_profile(tmp_path)


CLAIMS = [
    ("counts", [0, 4]),
    ("counts", [-1, 3]),
    ("counts", [0]),
    ("counts", [0, 1, 3]),
    ("counts", [0.5, 3]),
    ("passes", -1),
    ("sequences", -1),
    ("seed", -1),
    ("held_out", [["beta", float("inf")]]),
    ("held_out", [["beta"]]),
    ("calibration.counts", [0, 4]),
    ("calibration.counts", [-1, 3]),
    ("calibration.counts", [0]),
    ("calibration.counts", [0, 1, 3]),
    ("calibration.ranges.0.first", -1),
    ("calibration.ranges.0.first", 4),
    ("calibration.ranges.1.last", -1),
    ("calibration.ranges.1.last", 4),
    ("calibration.ranges.0.entropy", -0.1),
    ("calibration.ranges.0.cross_entropy", -0.1),
    ("calibration.ranges.0.error", -0.1),
    ("tensors.means", [3.0, -0.1]),
    ("tensors.means", [3.0]),
    ("tensors.means", [3.0, 1.0, 0.0]),
    ("tensors.standard_errors", [-0.1, 0.0]),
    ("tensors.standard_errors", [0.0]),
    ("tensors.calibration.entropy", [0.0, -0.1]),
    ("tensors.calibration.entropy", [0.0]),
    ("tensors.calibration.cross_entropy", [0.0, -0.1]),
    ("tensors.calibration.errors", [0.0, 0.1, 0.2]),
    ("tensors.h", []),
    ("tensors.h", [3.0, 2.0, 2.5, 0.0]),
    ("tensors.h", [3.0, 2.0, 1.0, -0.1]),
]


@pytest.mark.parametrize(("what", "claim"), CLAIMS)
def test_claims_of_a_file_that_cannot_be_are_refused(what, claim, tmp_path):
    save_profile(tmp_path, H, MEASURED)
    file = tmp_path / "profile.safetensors"
    size = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + size])["__metadata__"]["information_profile"]
    document, tensors = json.loads(header), load_file(file)
    if what.startswith("tensors."):
        assert what[8:] in tensors
        tensors[what[8:]] = torch.tensor(claim, dtype=torch.float64)
    else:
        *path, last = what.split(".")
        place = document["measurement"]
        for key in path:
            place = place[int(key) if key.isdigit() else key]
        assert last in place
        place[last] = claim
    save_file(tensors, file, {"information_profile": json.dumps(document)})
    with pytest.raises(FormatError, match="profile"):
        load_profile(tmp_path)
