"""A page published as a static Space."""

import json

import pytest

from mdm_schedules.cli import main
from mdm_schedules.errors import InvalidValueError, StorageError
from mdm_schedules.hub import push_page


def test_explore_pushes_its_page_and_leaves_a_card_that_is_there(hub, capsys):
    words = ["explore", "--no-recording", "--push", "alice/sliders", "--json"]
    assert main(words) == 0
    done = json.loads(capsys.readouterr().out)
    assert "page" not in done, "only a Space was asked for"
    files = hub.repos["spaces/alice/sliders"].files
    assert files["index.html"].startswith(b"<!doctype html>")
    assert b"\nsdk: static\n" in files["README.md"]
    hub.repos["spaces/alice/sliders"].commit({**files, "README.md": b"mine"})
    push_page("<p>new</p>", "alice/sliders")
    files = hub.repos["spaces/alice/sliders"].files
    assert (files["index.html"], files["README.md"]) == (b"<p>new</p>", b"mine")


def test_a_space_that_cannot_be_written_is_told(hub, monkeypatch):
    with pytest.raises(StorageError, match="permission"):
        push_page("x", "bob/sliders")
    with pytest.raises(InvalidValueError, match="'user/schedules'"):
        push_page("x", "sliders")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(StorageError, match="hf auth login"):
        push_page("x", "alice/sliders")
    assert not hub.repos
