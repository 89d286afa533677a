"""What a mirror may answer that the Hub never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hub_server
import pytest

import mdm_schedules as mdm
from mdm_schedules.errors import FormatError
from mdm_schedules.schedules import Linear

HANDLER = next(cls for cls in vars(hub_server).values() if hasattr(cls, "resolve"))


@pytest.mark.parametrize("header", ["ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("name", ["../../../../out", "/tmp/out", "..", "a/b", "a\\b"])
def test_names_that_lead_out_of_the_cache_are_refused(
    header: str, name: str, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("alice/mine", {"schedule.json": Linear().to_record().to_text().encode()})
    plain = HANDLER.resolve

    def resolve(self: Any, *args: str) -> tuple[int, Any, dict[str, str]]:
        status, data, headers = plain(self, *args)
        return status, data, {**headers, header: f'"{name}"' if header == "ETag" else name}

    monkeypatch.setattr(HANDLER, "resolve", resolve)
    cache = tmp_path / "a" / "b" / "c" / "d" / "cache"
    with pytest.raises(FormatError, match="no name of a file"):
        mdm.Schedule.from_pretrained("alice/mine", cache_dir=cache)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_damaged_copy_in_the_cache_names_the_remedy(hub: Any, tmp_path: Path) -> None:
    hub.add("alice/mine", {"schedule.json": Linear().to_record().to_text().encode()})
    mdm.Schedule.from_pretrained("alice/mine", cache_dir=tmp_path)
    for blob in (file for file in tmp_path.rglob("blobs/*") if file.is_file()):
        blob.write_bytes(b"<html>")
    with pytest.raises(FormatError, match=r"force_download=True"):
        mdm.Schedule.from_pretrained("alice/mine", cache_dir=tmp_path)
    again = mdm.Schedule.from_pretrained("alice/mine", cache_dir=tmp_path, force_download=True)
    assert again == Linear()
