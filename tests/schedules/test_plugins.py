"""Schedules of other packages: entry points, clashes, broken ones, and classes added at run time."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import mdm_schedules as mdm
from mdm_schedules.errors import (
    InvalidValueError,
    PluginError,
)
from mdm_schedules.registry import Registry
from mdm_schedules.schedules import (
    Beta,
    Linear,
    Schedule,
    schedules,
)

GROUP = "mdm_schedules.schedules"


# --- plugins: fake distributions on the path


def distribution(
    folder: Path, name: str, entries: str, modules: dict[str, str] | None = None
) -> None:
    """Write a distribution as pip leaves it, with entry points and modules."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}\n")
    for module, code in (modules or {}).items():
        (folder / f"{module}.py").write_text(textwrap.dedent(code))


GOOD = """
    from dataclasses import dataclass
    from typing import ClassVar
    from mdm_schedules.schedules import SquaredSine

    @dataclass(frozen=True, repr=False)
    class Good(SquaredSine):
        name: ClassVar[str] = "good_one"
"""


def test_a_plugin_is_listed_without_being_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "good-plugin", "good_one = plugin_good:Good", {"plugin_good": GOOD})
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [row for row in mdm.list_schedules() if row.name == "good_one"]
    assert [(row.source, row.target) for row in rows] == [("good-plugin", "plugin_good:Good")]
    assert "plugin_good" not in sys.modules
    schedule = mdm.get_schedule("good_one")
    assert "plugin_good" in sys.modules
    assert mdm.get_schedule(repr(schedule)) == schedule
    monkeypatch.delitem(sys.modules, "plugin_good")


@pytest.mark.slow
def test_listing_loads_nothing_at_all(tmp_path: Path) -> None:
    distribution(
        tmp_path,
        "loud",
        "loud = plugin_loud:Loud",
        {"plugin_loud": "raise SystemExit('was loaded')"},
    )
    code = (
        "import mdm_schedules as m; print([row.name for row in m.list_schedules()]); "
        "print(m.get_schedule('linear'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "'loud'" in run.stdout
    assert run.stdout.endswith("linear()\n")


def test_two_distributions_with_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path / "1", "first-one", "good_one = plugin_first:Good")
    distribution(
        tmp_path / "2", "second-one", "good_one = plugin_second:Good\nlinear = plugin_second:Linear"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "1"))
    monkeypatch.syspath_prepend(str(tmp_path / "2"))
    for name, owners in (
        ("good_one", ["first-one", "second-one"]),
        ("linear", ["second-one", "mdm-schedules"]),
    ):
        with pytest.raises(PluginError) as caught:
            mdm.get_schedule(name)
        assert all(owner in str(caught.value) for owner in owners)
        assert {row.source for row in mdm.list_schedules() if row.name == name} == set(owners)
    assert mdm.get_schedule("beta(a=1, b=1)") == Beta(1, 1)
    with pytest.warns(UserWarning, match=r"claimed by .* and ") as caught_warnings:
        loaded = schedules.load_all()
    assert len(caught_warnings) == 2
    assert "beta" in loaded
    assert "linear" not in loaded


def test_a_name_with_a_hyphen_is_listed_as_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path / "1", "first-one", "good-one = plugin_good:Good", {"plugin_good": GOOD})
    monkeypatch.syspath_prepend(str(tmp_path / "1"))
    assert [row.name for row in mdm.list_schedules() if row.source == "first-one"] == ["good_one"]
    for name in ("good_one", "good-one", "good_one()"):
        assert type(mdm.get_schedule(name)).__name__ == "Good"
    assert "good-one" in schedules
    distribution(tmp_path / "2", "second-one", "good_one = plugin_good:Good")
    monkeypatch.syspath_prepend(str(tmp_path / "2"))
    with pytest.raises(PluginError, match=r"claimed by second-one .* and first-one"):
        mdm.get_schedule("good-one")
    monkeypatch.delitem(sys.modules, "plugin_good")


def test_one_distribution_seen_twice_is_no_clash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("1", "2"):
        distribution(
            tmp_path / place, "good-plugin", "good_one = plugin_good:Good", {"plugin_good": GOOD}
        )
        monkeypatch.syspath_prepend(str(tmp_path / place))
    assert type(mdm.get_schedule("good_one")).__name__ == "Good"
    monkeypatch.delitem(sys.modules, "plugin_good")


BROKEN = {
    "import_error": ("plugin_import_error:X", "import surely_not_installed_anywhere"),
    "missing_module": ("plugin_that_is_not_there:X", None),
    "missing_attribute": ("plugin_missing_attribute:X", "Y = 1"),
    "wrong_type": ("plugin_wrong_type:X", "X = 5"),
    "wrong_class": ("plugin_wrong_class:X", "class X: ..."),
    "instance": ("plugin_instance:X", "from mdm_schedules.schedules import Linear; X = Linear()"),
    "exits": ("plugin_exits:X", "raise SystemExit(3)"),
    "syntax": ("plugin_syntax:X", "def ("),
    "malformed": (":::", None),
}


def test_broken_plugins_break_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (target, code) in BROKEN.items():
        modules = {} if code is None else {f"plugin_{name}": code}
        distribution(tmp_path, f"broken-{name}", f"broken_{name} = {target}", modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert mdm.get_schedule("beta(a=1, b=1)") == Beta(1, 1)
    for name in BROKEN:
        with pytest.raises(PluginError, match=rf"broken-{name}"):
            mdm.get_schedule(f"broken_{name}")
    with pytest.warns(UserWarning, match="broken-") as caught:
        loaded = schedules.load_all()
    for name in BROKEN:
        assert any(f"broken-{name}" in str(warning.message) for warning in caught)
    assert len(caught) == len(BROKEN)
    assert {"linear", "beta", "tabulated"} <= set(loaded)


@pytest.mark.parametrize("damage", ["no metadata", "line without =", "not utf-8"])
def test_a_damaged_distribution_breaks_no_other(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "damaged", "broken_damaged = nowhere:X")
    info = tmp_path / "damaged-1.0.dist-info"
    if damage == "no metadata":
        (info / "METADATA").unlink()
    elif damage == "line without =":
        (info / "entry_points.txt").write_text(f"[{GROUP}]\nbroken_damaged\n")
    else:
        (info / "entry_points.txt").write_bytes(b"\xff\xfe[" + GROUP.encode() + b"]\nx = y:z\n")
    distribution(tmp_path, "good-plugin", "good_one = plugin_good:Good", {"plugin_good": GOOD})
    monkeypatch.syspath_prepend(str(tmp_path))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        names = {row.name for row in mdm.list_schedules()}
        assert {"linear", "good_one"} <= names
        assert mdm.get_schedule("beta(a=1, b=1)") == Beta(1, 1)
        assert mdm.get_schedule("good_one").alpha(1.0) == 1.0
    monkeypatch.delitem(sys.modules, "plugin_good")


def test_errors_of_other_peoples_constructors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
        from dataclasses import dataclass
        from mdm_schedules.schedules import Linear, Schedule

        class Abstract(Schedule):
            name = "abstract"

        @dataclass(frozen=True, repr=False)
        class Picky(Linear):
            x: float = 1.0
            name = "picky"
            def __post_init__(self):
                if self.x < 0:
                    raise ValueError("x is too small")
    """
    entries = "abstract = plugin_picky:Abstract\npicky = plugin_picky:Picky"
    distribution(tmp_path, "picky", entries, {"plugin_picky": code})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvalidValueError, match=r"'abstract'.*abstract"):
        mdm.get_schedule("abstract")
    with pytest.raises(InvalidValueError, match="'picky': x is too small"):
        mdm.get_schedule("energy_optimal(gamma=picky(x=-1))")
    with pytest.raises(InvalidValueError, match="'picky'"):
        mdm.get_schedule("picky(x='1')")
    assert mdm.get_schedule("picky(x=2)").alpha(0.5) == 0.5
    monkeypatch.delitem(sys.modules, "plugin_picky")


# --- registering at run time


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Provide the schedules registry, and undo the test's registrations afterwards."""
    monkeypatch.setattr(schedules, "_local", {})
    return schedules


def named(name: object) -> type[Schedule]:
    return type("Mine", (Linear,), {"name": name})


@pytest.mark.usefixtures("fresh")
def test_register_schedule() -> None:
    cls = mdm.register_schedule(named("mine"))
    assert mdm.register_schedule(cls) is cls  # the same class again: a cell run twice
    assert type(mdm.get_schedule("mine")) is cls
    row = next(row for row in mdm.list_schedules() if row.name == "mine")
    assert row.source == "registered at run time"
    with pytest.raises(PluginError, match=r"'mine' is taken by .*registered at run time"):
        mdm.register_schedule(named("mine"))
    with pytest.raises(PluginError, match=r"'linear' is taken by .*mdm-schedules"):
        mdm.register_schedule(named("linear"))
    assert type(mdm.get_schedule("linear")) is Linear


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("bad", [5, None, Linear(), dict, "linear", lambda: Linear()])
def test_only_schedule_classes_are_registered(bad: object) -> None:
    with pytest.raises(PluginError, match="must be a subclass of Schedule"):
        mdm.register_schedule(bad)  # type: ignore[arg-type]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", ["", None, 5, "two words", "a(b)", "a-b", "./x", "1st"])
def test_only_names_that_a_spec_can_hold_are_registered(name: object) -> None:
    with pytest.raises(PluginError, match="name"):
        mdm.register_schedule(named(name))


@pytest.mark.usefixtures("fresh")
def test_a_class_without_a_name() -> None:
    nameless = type("Nameless", (Schedule,), {"_alpha": abs, "_alpha_dot": abs})
    with pytest.raises(PluginError, match="needs a class attribute name"):
        mdm.register_schedule(nameless)


# --- the real thing


@pytest.mark.slow
def test_an_installed_third_party_schedule(tmp_path: Path) -> None:
    """Build and install a distribution with pip.

    In another process its schedule passes the conformance suite.
    """
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        textwrap.dedent(f"""
        [build-system]
        requires = ["setuptools>=69"]
        build-backend = "setuptools.build_meta"

        [project]
        name = "smoothstep-schedule"
        version = "1.0"

        [project.entry-points."{GROUP}"]
        smoothstep = "smoothstep_schedule:Smoothstep"

        [tool.setuptools]
        py-modules = ["smoothstep_schedule"]
        """)
    )
    (source / "smoothstep_schedule.py").write_text(
        textwrap.dedent("""
        from dataclasses import dataclass
        from typing import ClassVar

        from mdm_schedules import Schedule


        @dataclass(frozen=True, repr=False)
        class Smoothstep(Schedule):
            # (1 - s) t^2 (3 - 2 t) + s t
            s: float = 0.25
            name: ClassVar[str] = "smoothstep"

            def _alpha(self, t):
                return (1 - self.s) * t**2 * (3 - 2 * t) + self.s * t

            def _alpha_dot(self, t):
                return (1 - self.s) * 6 * t * (1 - t) + self.s
        """)
    )
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    install += ["--disable-pip-version-check", "--target", str(target), str(source)]
    subprocess.run(install, check=True, capture_output=True, text=True, cwd=tmp_path)
    code = """
        import mdm_schedules as mdm
        from mdm_schedules.testing import check_schedule

        row = next(row for row in mdm.list_schedules() if row.name == "smoothstep")
        print(row.source, row.target)
        for spec in ("smoothstep", "smoothstep(s=0.5)", "energy_optimal(gamma=smoothstep(s=1))"):
            check_schedule(mdm.get_schedule(spec))
            print(mdm.get_schedule(spec))
    """
    environment = {**os.environ, "PYTHONPATH": str(target)}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "smoothstep-schedule smoothstep_schedule:Smoothstep",
        "smoothstep(s=0.25)",
        "smoothstep(s=0.5)",
        "energy_optimal(gamma=smoothstep(s=1))",
    ]
