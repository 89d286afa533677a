"""Provides `hub`: a Hub on loopback, and this process set up as a user's with that HF_ENDPOINT."""

import sys
import time

import pytest
from hub_server import Hub


def new_sessions():
    """Open new client sessions, since a session settles offline mode when it is made."""
    from huggingface_hub.utils import _http

    (_http.reset_sessions if hasattr(_http, "reset_sessions") else _http.close_session)()


@pytest.fixture
def offline(monkeypatch):
    """Return a function that turns HF_HUB_OFFLINE on or off."""
    from huggingface_hub import constants

    def switch(value=True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value)
        new_sessions()

    yield switch
    monkeypatch.undo()
    new_sessions()


@pytest.fixture
def plots():
    """Keep matplotlib for tests that look at plots; without this fixture it is missing.

    Plots take half a second each.
    """


@pytest.fixture
def hub(request, monkeypatch, tmp_path, offline):
    from huggingface_hub import constants, file_download

    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        # huggingface_hub waits up to half a minute
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        monkeypatch.chdir(tmp_path)
        if "plots" not in request.fixturenames:
            for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
                monkeypatch.setitem(sys.modules, module, None)
        offline(False)
        yield server
