"""Type checkers see the package as users do: wrong calls are refused, a right script is not."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mdm_schedules

# a cold cache on a busy machine: mypy reads torch and transformers, too
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PLACE = Path(mdm_schedules.__file__).parents[1]

WRONG = """\
import torch
import mdm_schedules as mdm
from mdm_schedules.models import ModelAdapter

ids = torch.zeros(1, 1, dtype=torch.long)
ModelAdapter(1, 2, 3)
mdm.generate(lambda tokens: tokens, ids, stepz=4)
mdm.AutoModelForMaskedDiffusion.from_pretrained("x").generate(1)
mdm.generate(lambda tokens: tokens, ids, steps="many")
"""
WRONG_LINES = {6, 7, 8, 9}

RIGHT = '''\
"""Write with a model in two ways, and tune a schedule for it."""
import torch
import mdm_schedules as mdm
from mdm_schedules.sampling import ConfidencePolicy


class Best(ConfidencePolicy):
    name = "best"

    def score(self, probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return probs.amax(1)


def score(schedule: mdm.Schedule) -> float:
    return float(schedule.plan(16, 4)[0])


model = mdm.AutoModelForMaskedDiffusion.from_pretrained("folder", schedule="beta(a=0.9, b=0.3)")
model.schedule = mdm.get_schedule("sine")
input_ids = torch.zeros(2, 8, dtype=torch.long)
out = model.generate(input_ids, max_new_tokens=16, steps=4, remasking="margin", seed=[1, 2])
passes: int = out.nfe
rows: list[list[int]] = out.sequences[:, 8:].tolist()
more = mdm.generate(model, input_ids, max_new_tokens=16, steps=4, remasking=Best(), top_p=0.9)
schedule: mdm.Schedule = mdm.Beta(a=0.9, b=0.3)
plan: torch.Tensor = schedule.plan(num_tokens=16, steps=4)
excess: float = mdm.energy_excess(schedule)
found = mdm.tune(score, n_trials=4)
found.best_schedule.save_pretrained("found")
'''


@pytest.fixture
def scripts(tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "right.py").write_text(RIGHT)
    return tmp_path


def run(*words, **options):
    words = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, **options)


def mypy_lines(folder):
    """The lines of each script that mypy refuses."""
    words = ["mypy", "--ignore-missing-imports", "--implicit-reexport", "--no-error-summary"]
    # in a clone, checked with its own settings in its own cache, which the type check has filled
    if (PLACE / "pyproject.toml").is_file():
        words += ["--config-file", PLACE / "pyproject.toml", "--cache-dir", PLACE / ".mypy_cache"]
    names = [folder / "wrong.py", folder / "right.py"]
    done = run(*words, *names, cwd=PLACE if "--config-file" in words else folder)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {"wrong.py": set(), "right.py": set()}
    for line in done.stdout.splitlines():
        place, _, message = line.partition(": error: ")
        if message and Path(place.split(":")[0]).name in found:
            found[Path(place.split(":")[0]).name].add(int(place.split(":")[1]))
    return found, done.stdout


def pyright_lines(folder):
    """The lines of each script that pyright refuses."""
    settings = {"pythonVersion": "3.10", "extraPaths": [str(PLACE)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    offline = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    if run("pyright", "--version", env=offline).returncode:
        pytest.skip("pyright cannot start here: it needs node, from the extra pyright[nodejs]")
    words = ["--outputjson", "--pythonpath", sys.executable, "-p", folder / "pyrightconfig.json"]
    done = run("pyright", *words, cwd=folder, env=offline)
    found = {"wrong.py": set(), "right.py": set()}
    for row in json.loads(done.stdout)["generalDiagnostics"]:
        if row["severity"] == "error":
            found[Path(row["file"]).name].add(row["range"]["start"]["line"] + 1)
    return found, done.stdout


@pytest.mark.parametrize("checker", [mypy_lines, pyright_lines])
def test_wrong_calls_are_refused_and_a_right_script_is_not(checker, scripts):
    tool = checker.__name__.partition("_")[0]
    if not importlib.util.find_spec(tool):
        pytest.skip(f"needs {tool}, of the extra `test`")
    found, output = checker(scripts)
    assert found == {"wrong.py": WRONG_LINES, "right.py": set()}, output
