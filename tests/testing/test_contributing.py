"""The examples of CONTRIBUTING are right: each passes the suite of its kind."""

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / ".github" / "CONTRIBUTING.md"
BLOCKS = (
    re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    if GUIDE.is_file()
    else []
)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_of_the_guide_conforms(number, monkeypatch):
    # dataclasses look up the module that a class names
    import sys
    import types

    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    exec(compile(BLOCKS[number], "CONTRIBUTING.md", "exec"), vars(module))
    checks = [name for name in vars(module) if name.startswith("check_")]
    assert len(checks) == 1


def test_every_kind_of_plug_in_has_an_example():
    if not BLOCKS:
        pytest.skip("needs the source tree")
    import mdm_schedules.testing as suites

    assert all(any(f"{name}(" in block for block in BLOCKS) for name in suites.__all__)
