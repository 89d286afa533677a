"""The script that compares the stand-ins of engines with wheels, on wheels made of the stand-ins."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STANDINS = ROOT / "tests/support/standins"
PACKAGES = ["sglang", "omnivoice", "vllm_dllm_plugin"]


def compare(*wheels):
    words = [word for wheel in wheels for word in ("--wheel", str(wheel))]
    script = ROOT / "examples/engine_interfaces.py"
    return subprocess.run([sys.executable, script, *words], capture_output=True, text=True)


def wheel(folder, package, change=lambda source: source):
    path = folder / f"{package}-9.9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((STANDINS / package).rglob("*.py")):
            archive.writestr(str(file.relative_to(STANDINS)), change(file.read_text()))
    return path


def test_the_same_interface_passes(tmp_path):
    done = compare(*(wheel(tmp_path, package) for package in PACKAGES))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{package.replace('_', '-')} 9.9: as the stand-in" for package in PACKAGES
    ]


@pytest.mark.parametrize(
    ("package", "old", "new", "said"),
    [
        ("sglang", "full_logits, states", "logits_output, states", "DllmAlgorithm.step takes"),
        ("omnivoice", "def _get_time_steps", "def _time_steps", "no _get_time_steps"),
    ],
)
def test_another_interface_is_told(tmp_path, package, old, new, said):
    done = compare(wheel(tmp_path, package, lambda source: source.replace(old, new)))
    assert done.returncode == 1
    assert "differs" in done.stdout
    assert said in done.stdout


def test_a_wheel_of_something_else_is_refused(tmp_path):
    done = compare(tmp_path / "torch-2.13-py3-none-any.whl")
    assert done.returncode == 2
    assert "no bridge to it" in done.stderr
