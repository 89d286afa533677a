"""A profile as one file, profile.safetensors: numbers as tensors, the rest as JSON in its header.

A single file keeps h and its description together, even after an interruption.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mdm_schedules.checks import check_int, check_real, shown
from mdm_schedules.errors import FormatError, MDMError, StorageError
from mdm_schedules.files import TensorFile, local_path, write_atomically
from mdm_schedules.information.calibration import Calibration, CalibrationRange
from mdm_schedules.information.estimate import Measurement

PROFILE_FILE = "profile.safetensors"
FORMAT_VERSION = "1.1"  # 1.1 added the calibration
_KEY = "information_profile"  # key of the JSON in the header
_TENSORS = ("means", "standard_errors")
_CALIBRATION = ("entropy", "cross_entropy", "errors")


def save_profile(
    path: str | os.PathLike[str], h: Sequence[float], measurement: Measurement | None
) -> None:
    """Write the file into the folder `path`, made if missing.

    Raises:
        StorageError: the folder cannot be made, or the file cannot be written.
    """
    # Not save_file, which leaves a temporary file of its own when killed.
    from safetensors.torch import save

    folder = local_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot make the folder {folder}: {getattr(error, 'strerror', None) or error}"
        ) from error
    tensors = {"h": torch.tensor(h, dtype=torch.float64)}
    record = None if measurement is None else asdict(measurement)
    # Long vectors go into tensors, which keep every bit; JSON holds the rest.
    if record is not None:
        tensors |= {key: torch.tensor(record.pop(key), dtype=torch.float64) for key in _TENSORS}
        if record["calibration"] is not None:
            told = record["calibration"]
            tensors |= {
                f"calibration.{key}": torch.tensor(told.pop(key), dtype=torch.float64)
                for key in _CALIBRATION
            }
    header = {
        _KEY: json.dumps({"format_version": FORMAT_VERSION, "measurement": record}, allow_nan=False)
    }
    write_atomically(
        folder / PROFILE_FILE, lambda name: Path(name).write_bytes(save(tensors, header))
    )


def load_profile(path: str | os.PathLike[str]) -> tuple[tuple[float, ...], Measurement | None]:
    """Read a profile and its measurement, if any, from the folder `path`.

    Raises:
        StorageError: nothing there, or unreadable.
        FormatError: the file is not a profile.
    """
    file = local_path(path) / PROFILE_FILE
    if not os.path.exists(file):
        raise StorageError(f"no profile at {file}; save one with profile.save_pretrained(folder)")
    tensors = TensorFile(lambda: file)
    h = tensors["h"]  # refuses what is no whole safetensors file
    try:
        return h, _parse(json.loads(tensors.metadata.get(_KEY, "")), h, tensors)
    except StorageError:
        raise
    except (MDMError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} does not describe an information profile: {error}") from error


def _parse(
    document: dict[str, Any], h: tuple[float, ...], tensors: TensorFile
) -> Measurement | None:
    # A newer minor version only adds fields, so the major one decides.
    version = document.get("format_version")
    if not isinstance(version, str) or version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise FormatError(
            f"it has format version {shown(version)}; this library reads {FORMAT_VERSION}"
        )
    record = document.get("measurement")
    may_rise = record is not None and record["method"] == "cross_entropy"
    rises = any(later > earlier for earlier, later in itertools.pairwise(h))
    if not h or (rises and not may_rise):
        raise FormatError("h must not be empty, and not rise")
    # Files may come from strangers: everything that a constructor trusts is checked.
    for value in h:
        check_real("h", value, 0)
    if record is None:
        return None
    counts = tuple(check_int("counts", count, 0, len(h) - 1) for count in record["counts"])
    means, errors = (tuple(check_real(key, value, 0) for value in tensors[key]) for key in _TENSORS)
    if not len(counts) == len(means) == len(errors):
        raise FormatError("counts, means and standard_errors must have one length")
    passes, sequences, seed = (
        check_int(key, record[key], 0) for key in ("passes", "sequences", "seed")
    )
    return Measurement(
        counts=counts,
        means=means,
        standard_errors=errors,
        passes=passes,
        sequences=sequences,
        seed=seed,
        method=str(record["method"]),
        curve=str(record["curve"]),
        held_out=tuple(
            (str(name), check_real("held_out", cost)) for name, cost in record["held_out"]
        ),
        calibration=_calibration(record.get("calibration"), len(h), tensors),
    )


def _calibration(
    record: dict[str, Any] | None, num_tokens: int, tensors: TensorFile
) -> Calibration | None:
    if record is None:
        return None
    curves = {
        key: tuple(check_real(key, value, 0) for value in tensors[f"calibration.{key}"])
        for key in _CALIBRATION
    }
    counts = tuple(check_int("counts", count, 0, num_tokens - 1) for count in record["counts"])
    if {len(counts)} != set(map(len, curves.values())):
        raise FormatError("the counts and curves of the calibration must have one length")
    ranges = tuple(
        CalibrationRange(
            first=check_int("first", part["first"], 0, num_tokens - 1),
            last=check_int("last", part["last"], 0, num_tokens - 1),
            entropy=check_real("entropy", part["entropy"], 0),
            cross_entropy=check_real("cross_entropy", part["cross_entropy"], 0),
            error=check_real("error", part["error"], 0),
            differs=bool(part["differs"]),
        )
        for part in record["ranges"]
    )
    return Calibration(counts=counts, ranges=ranges, num_tokens=num_tokens, **curves)
