"""The command line as its own process."""

import os
import subprocess
import sys

import pytest


def pytest_collection_modifyitems(items):
    """Mark every test that starts the command line as a process."""
    for item in items:
        if "command" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def command(tmp_path):
    """(words, **Popen's options) -> the running process, in a folder of its own."""
    running = []

    def start(*words, env=None, **options):
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(env or {})}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        words = [sys.executable, "-m", "mdm_schedules", *words]
        running.append(subprocess.Popen(words, cwd=tmp_path, env=environment, **options))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def done(command):
    """(words, **Popen's options) -> status, output and errors."""

    def run(*words, text=None, **options):
        data = None if text is None else text.encode()
        if data is not None:
            options["stdin"] = subprocess.PIPE
        process = command(*words, **options)
        out, err = process.communicate(data, timeout=300)
        return process.returncode, (out or b"").decode(), (err or b"").decode()

    return run
