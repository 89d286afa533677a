"""Failures on the way to the Hub: each is one clear line, retried where safe; offline use."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdm_schedules as mdm
from mdm_schedules.errors import FormatError, InvalidTypeError, InvalidValueError, StorageError
from mdm_schedules.lookup import find_schedule
from mdm_schedules.schedules import Beta, Linear, Tabulated

LONG = Tabulated(np.linspace(0, 1, 300) ** 1.7)  # type: ignore[arg-type]


def refused(words: str, ask: Any) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        ask()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert "hf_" not in message  # a token


# --- who may


def test_no_token(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    for options in ({}, {"token": False}):
        refused(
            "needs a Hub token with write permission: log in with `hf auth login`",
            lambda o=options: Linear().push_to_hub("alice/x", **o),
        )
    assert not hub.requests
    Linear().push_to_hub("alice/x", token="hf_alice")
    assert mdm.get_schedule("alice/x") == Linear()  # a public one needs none
    with pytest.raises(
        InvalidTypeError, match="token must be text, True, False or None, got a int"
    ):
        mdm.get_schedule("alice/x", token=5)


def test_no_permission(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("bob/theirs")
    hub.add("bob/secret", {"schedule.json": b"{}"}, private=True)
    hub.add("bob/gated", {"schedule.json": b"{}"}, gated=True)
    for repo in ("bob/theirs", "bob/new"):
        refused(
            "no permission for bob/.*use a token with write permission",
            lambda r=repo: Linear().push_to_hub(r),
        )
    refused(
        "no permission for alice/x .*only read",
        lambda: Linear().push_to_hub("alice/x", token="hf_reader"),
    )
    refused("does not accept your token", lambda: Linear().push_to_hub("alice/x", token="hf_wrong"))
    refused(
        "no repository bob/secret, or not for you.*hf auth login",
        lambda: mdm.get_schedule("bob/secret"),
    )
    refused(
        "gated: accept its terms at .*/bob/gated, then log in",
        lambda: mdm.get_schedule("bob/gated"),
    )
    refused("bob/secret", lambda: mdm.get_schedule("bob/secret", token=False))
    assert "schedule.json" not in hub.repos["bob/theirs"].files


# --- what is not there


def test_what_is_not_there(hub: Any) -> None:
    hub.add("alice/empty")
    Linear().push_to_hub("alice/mine")
    refused(
        "no repository alice/none, .*no folder 'alice/none' here either",
        lambda: mdm.get_schedule("alice/none"),
    )
    refused(
        "alice/mine has no branch, tag or commit 'v9'; see",
        lambda: mdm.get_schedule("alice/mine@v9"),
    )
    refused("alice/mine has no branch", lambda: Linear().push_to_hub("alice/mine", revision="v9"))
    refused(
        r"alice/empty holds no schedule\.json; see .*/alice/empty/tree/main",
        lambda: mdm.get_schedule("alice/empty"),
    )
    refused(r"holds no schedule\.json", lambda: mdm.get_schedule("alice/empty", steps=8))


@pytest.mark.parametrize(
    "bad", ["", "a/b/c", "a b/c", "../x", "alice/x@y", "alice/--", "alice/a..b", None, 5, "x" * 200]
)
def test_what_is_no_hub_id(hub: Any, bad: Any) -> None:
    with pytest.raises(InvalidValueError, match="a Hub id must be like 'user/my-schedule'"):
        Linear().push_to_hub(bad)
    assert not hub.requests


# --- the connection


def test_a_push_survives_one_failure_anywhere(hub: Any) -> None:
    LONG.push_to_hub("alice/first")
    lines = [line for line in hub.requests if "first" in line or "create" in line]
    assert len(lines) >= 4
    for number, line in enumerate(lines):
        pattern = line.replace("first", f"x{number}").split("/revision/")[0]
        for kind in (500, "after"):
            name = f"alice/x{number}-{kind}"
            hub.fail(pattern.replace(f"alice/x{number}", name), kind)
            LONG.push_to_hub(name)
            assert mdm.get_schedule(name) == LONG
            assert len(hub.repos[name].commits) == 2, f"{line}: committed twice"


def test_a_pull_survives_failures(hub: Any) -> None:
    LONG.push_to_hub("alice/mine")
    for kind in ("drop", "half", "slow", 503):
        hub.fail(r"(GET|HEAD) /alice/mine/resolve/main/schedule\.json", kind)
        hub.fail(r"(GET|HEAD) /alice/mine/resolve/[0-9a-f]+/schedule\.safetensors", kind)
        assert mdm.get_schedule("alice/mine", cache_dir=f"cache-{kind}") == LONG
        assert not any(fault.times for fault in hub.faults)


def test_a_download_that_stays_broken_is_told_in_one_line(
    hub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Linear().push_to_hub("alice/mine")
    hub.fail("GET .*", "half", times=1 << 20)
    caplog.clear()
    refused("connection to .* failed", lambda: mdm.get_schedule("alice/mine", cache_dir="fresh"))
    assert not [record for record in caplog.records if record.name.startswith("huggingface_hub")]


def test_a_search_survives_one_failure_and_tells_of_many(hub: Any) -> None:
    for kind in (502, "drop"):
        hub.fail("GET /api/models$", kind)
        assert mdm.search_schedules() == []
    hub.fail("GET /api/models$", 429, times=50)
    refused(r"asks for fewer requests \(out of order\): wait", mdm.search_schedules)


def test_a_server_that_stays_broken(hub: Any) -> None:
    hub.fail("POST /api/repos/create", 500, times=50)
    refused(
        r"answered 500 for alice/x \(out of order\): try again later",
        lambda: Linear().push_to_hub("alice/x"),
    )
    hub.faults.clear()
    hub.fail("POST /api/repos/create", "drop", times=50)
    refused(
        "connection to .* failed .*all of it has arrived or nothing",
        lambda: Linear().push_to_hub("alice/x"),
    )


def test_pull_requests_are_not_tried_again(hub: Any) -> None:
    hub.add("bob/model")
    hub.fail("POST /api/models/bob/model/commit/main", "after")
    refused(
        "look there before you push again",
        lambda: Linear().push_to_hub("bob/model", create_pr=True),
    )
    assert hub.repos["bob/model"].pull_requests == 1


def test_others_commit_at_the_same_time(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Linear().push_to_hub("alice/mine")
    repo = hub.repos["alice/mine"]
    from mdm_schedules.hub import push

    real, races = push._operations, [1]

    def slow(*args: Any) -> Any:
        done = real(*args)
        if races:
            repo.commit({**repo.files, f"other-{races.pop()}": b"x"})
        return done

    monkeypatch.setattr(push, "_operations", slow)
    Beta(1, 2).push_to_hub("alice/mine")
    assert repo.files["other-1"] == b"x"
    assert mdm.get_schedule("alice/mine") == Beta(1, 2)
    races.extend(range(50))
    refused(
        "others commit to alice/mine at the same time", lambda: Linear().push_to_hub("alice/mine")
    )


# --- offline


def test_offline_from_the_cache(hub: Any, offline: Any, tmp_path: Path) -> None:
    for steps in (4, 64):
        score = mdm.Evaluation(model="lab/llada", task="t", steps=steps, metric="m", value=1)
        LONG.push_to_hub("alice/many", evaluation=score)
    hub.add(
        "alice/bare",
        {"schedule.json": b'{"format_version": "1.0", "time": "generation", "name": "linear"}'},
    )
    asked = [
        ("alice/bare", {}),
        ("alice/bare", {"steps": 8}),
        ("alice/many", {"steps": 5}),
        ("alice/bare@main", {}),
    ]
    online = [mdm.get_schedule(repo, **options) for repo, options in asked]
    own_cache = mdm.get_schedule("alice/bare", cache_dir=tmp_path / "own")
    hub.requests.clear()
    assert [
        mdm.get_schedule(repo, local_files_only=True, **options) for repo, options in asked
    ] == online
    offline()
    assert [mdm.get_schedule(repo, **options) for repo, options in asked] == online
    assert mdm.get_schedule("alice/bare", cache_dir=tmp_path / "own") == own_cache
    assert find_schedule("alice/bare") == Linear()
    assert find_schedule("alice/none") is None
    refused(
        r"gsm|t-64/schedule\.json of alice/many is not in the cache",
        lambda: mdm.get_schedule("alice/many", steps=64),
    )
    refused(
        "not in the cache, and the Hub may not be asked", lambda: mdm.get_schedule("alice/none")
    )
    refused("push and search need the Hub: unset it", lambda: Linear().push_to_hub("alice/x"))
    refused("push and search need the Hub: unset it", mdm.search_schedules)
    with pytest.raises(InvalidValueError, match="force_download needs the Hub"):
        mdm.get_schedule("alice/bare", force_download=True)
    assert not hub.requests


def test_a_second_look_downloads_nothing_and_force_does(hub: Any) -> None:
    LONG.push_to_hub("alice/mine")
    mdm.get_schedule("alice/mine")
    hub.requests.clear()
    mdm.get_schedule("alice/mine")
    assert not [line for line in hub.requests if line.startswith("GET")]
    mdm.get_schedule("alice/mine", force_download=True)
    assert len([line for line in hub.requests if line.startswith("GET")]) == 2


def test_a_cached_schedule_is_there_when_the_hub_is_not(hub: Any) -> None:
    LONG.push_to_hub("alice/mine")
    mdm.get_schedule("alice/mine")
    hub.fail("HEAD", "drop", times=1 << 20)
    assert mdm.get_schedule("alice/mine") == LONG
    refused("connection to .* failed", lambda: mdm.get_schedule("alice/none"))


# --- repositories that mean harm


def test_huge_files_are_refused_before_they_are_downloaded(hub: Any) -> None:
    for name, size in (
        ("schedule.json", (1 << 20) + 1),
        ("schedule.safetensors", (1 << 26) + 1),
        ("schedules.json", (1 << 20) + 1),
    ):
        LONG.push_to_hub("alice/mine")
        repo = hub.repos["alice/mine"]
        repo.commit({**repo.files, name: bytes(size)})
        hub.requests.clear()
        with pytest.raises(FormatError, match=f"{name} of alice/mine has {size} bytes"):
            mdm.get_schedule("alice/mine", **({"steps": 4} if name == "schedules.json" else {}))
        assert f"GET /alice/mine/resolve/main/{name}" not in hub.requests
        del hub.repos["alice/mine"]


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../x",
        "/etc",
        "a/../..",
        "a//b",
        "C:\\x",
        "a\\b",
        "~",
        ".ssh",
        "a\0",
        "a/" * 9,
        "x" * 999,
        None,
        5,
        ["a"],
    ],
)
def test_an_index_that_points_out(hub: Any, path: Any, tmp_path: Path) -> None:
    import json

    score = {"model": "m", "task": "t", "steps": 4, "metric": "m", "value": 1}
    index = {
        "format_version": "1.0",
        "schedules": [{"path": path, "schedule": "linear()", "evaluation": score}],
    }
    hub.add("alice/mine", {"schedules.json": json.dumps(index).encode()})
    with pytest.raises(FormatError, match=r"schedules\.json: subfolder must be"):
        mdm.get_schedule("alice/mine", steps=4)
    assert not [line for line in hub.requests if "schedules.json" not in line]


def test_a_symlink_out_is_neither_shown_nor_written_to(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password: 12345")
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("schedule.json", "schedule.safetensors"):
        LONG.save_pretrained(folder)
        (folder / name).unlink()
        os.symlink(secret, folder / name)
        with pytest.raises(FormatError) as caught:
            mdm.get_schedule(folder)
        assert "12345" not in str(caught.value)
        LONG.save_pretrained(folder)
        assert secret.read_text() == "password: 12345"
        assert not (folder / name).is_symlink()


def test_no_network_at_all(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    refused(
        "connection to http://127.0.0.1:.* failed .*check the network, try again",
        mdm.search_schedules,
    )
    refused("connection to http://127.0.0.1:.* failed", lambda: Linear().push_to_hub("alice/x"))
