"""Names, spec strings and plugins: found by name, loaded on demand, unable to break each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import mdm_schedules as mdm
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    PluginError,
    StorageError,
    UnknownNameError,
)
from mdm_schedules.registry import Registry
from mdm_schedules.schedules import (
    Beta,
    EnergyOptimal,
    Linear,
    LogLinear,
    Polynomial,
    Schedule,
    Tabulated,
    schedules,
)

GROUP = "mdm_schedules.schedules"


# --- spec strings


@pytest.mark.parametrize(
    ("spec", "schedule"),
    [
        ("linear", Linear()),
        (" linear\n", Linear()),
        ("linear()", Linear()),
        ("log-linear", LogLinear()),
        ("log_linear", LogLinear()),
        ("beta(a=0.9, b=0.3)", Beta(0.9, 0.3)),
        ("  beta (\n  a = .9 ,\tb=3e-1,\n)  ", Beta(0.9, 0.3)),
        ("beta(0.9, 0.3)", Beta(0.9, 0.3)),
        ("beta(0.9, b=0.3)", Beta(0.9, 0.3)),
        ("beta(b=+1, a=1_0)", Beta(10, 1)),
        ("polynomial", Polynomial(2)),
        ("polynomial(p=3) # cubic", Polynomial(3)),
        ("tabulated([0, 0.2, 1])", Tabulated([0, 0.2, 1])),
        ("tabulated(alpha=(0, .2, 1), t=[0, .5, 1])", Tabulated([0, 0.2, 1], [0, 0.5, 1])),
        ("energy_optimal", EnergyOptimal()),
        ("energy_optimal(gamma=None)", EnergyOptimal()),
        ("energy_optimal(gamma=beta(a=1, b=2))", EnergyOptimal(Beta(1, 2))),
        ("energy_optimal(gamma='beta(a=1, b=2)')", EnergyOptimal(Beta(1, 2))),
        ('energy_optimal("sine")', EnergyOptimal("sine")),
        ("energy_optimal(gamma=sine)", EnergyOptimal("sine")),
        ("energy_optimal(log_linear)", EnergyOptimal("log_linear")),
        (
            "energy_optimal(energy_optimal(energy_optimal(linear())))",
            EnergyOptimal(EnergyOptimal(EnergyOptimal("linear"))),
        ),
    ],
)
def test_specs(spec: str, schedule: Schedule) -> None:
    assert mdm.get_schedule(spec) == schedule
    assert mdm.get_schedule(repr(schedule)) == schedule
    assert mdm.get_schedule(schedule.spec) == schedule


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # Python's own, about odd syntax
@pytest.mark.parametrize(
    "spec",
    [
        "__import__('os').system('x')()",
        "__import__('os').system('touch hacked')",
        "beta(a=__import__('os').system('touch hacked'), b=1)",
        "beta(a=open('hacked', 'w'), b=1)",
        "beta.__class__()",
        "mdm_schedules.Beta(a=1, b=1)",
        "(lambda: 1)()",
        "beta(a=lambda: 1, b=1)",
        "beta(a=[x for x in (1,)], b=1)",
        "beta(a=(yield), b=1)",
        "beta(a=(x := 1), b=1)",
        "beta(a=f'{1}', b=1)",
        "beta(a=True if 1 else 2, b=1)",
        "beta(a=0.5 ** 2, b=1)",
        "beta(a=9**9**9, b=1)",
        "beta(a=b.c, b=1)",
        "beta(a=x[0], b=1)",
        "beta(*[1, 1])",
        "beta(**{'a': 1, 'b': 1})",
        "beta(a=1)(b=1)",
        "beta(a={[1]: 1}, b=1)",
        "beta(a={[1]}, b=1)",
        "beta(a=1, b=1",
        "beta)a=1, b=1(",
        "beta(a=1 b=1)",
        "beta(a=1, b=1); linear()",
        "beta(a=1, b=1)\nlinear()",
        "beta(a=1, b=1) or 1",
        "beta(a=1\0, b=1)",
        "beta(a=1, 1)",
        "()",
        "(beta)(",
        "'beta'(a=1)",
        "\ud800(a=1)",
        "beta(a=..., b=1)",
        "beta(a=1, b=" + "9" * 5000 + ")",
    ],
)
def test_specs_are_read_and_never_run(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MDMError) as caught:
        mdm.get_schedule(spec)
    assert isinstance(caught.value, ValueError | TypeError | KeyError)
    assert len(str(caught.value)) < 600
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spec",
    [
        "beta(a=" + "(" * 100_000 + "1" + ")" * 100_000 + ", b=1)",
        "beta(a=" + "[" * 150 + "]" * 150 + ", b=1)",
        "beta(a=" + "-" * 100_000 + "1, b=1)",
        "beta(a=1" + "+1" * 100_000 + ", b=1)",
        "beta(a=" + "not " * 100_000 + "1, b=1)",
        "beta" + "()" * 100_000,
        "beta" + ".a" * 100_000 + "()",
        "energy_optimal(" * 30 + ")" * 30,
        "energy_optimal(" * 100_000 + ")" * 100_000,
        "x" * (1 << 22),
        "beta(" + "1," * (1 << 22) + ")",
        "y" * 100_000_000,
    ],
    ids=lambda spec: f"{spec[:12]}, {len(spec)} characters",
)
def test_long_and_deep_specs(spec: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError, UnknownNameError)) as caught:
        mdm.get_schedule(spec)
    assert len(str(caught.value)) < 600


def test_depth_up_to_sixteen_reads_back() -> None:
    schedule: Schedule = Linear()
    for _ in range(16):
        schedule = EnergyOptimal(schedule)
    assert mdm.get_schedule(repr(schedule)) == schedule
    with pytest.raises(InvalidValueError, match="cannot read the schedule spec"):
        mdm.get_schedule(repr(EnergyOptimal(schedule)))


def test_parse_spec_takes_apart_only() -> None:
    assert schedules.parse("nobody(1, x=[2, 'three'])") == ("nobody", [1], {"x": [2, "three"]})
    assert schedules.parse("a-b") == ("a_b", [], {})


# --- get_schedule


def test_get_schedule_with_parameters() -> None:
    assert mdm.get_schedule("beta", a=0.9, b=0.3) == Beta(0.9, 0.3)
    assert mdm.get_schedule("beta(a=0.9)", b=0.3) == Beta(0.9, 0.3)
    assert mdm.get_schedule("tabulated", alpha=[0, 1]) == Tabulated([0, 1])
    assert mdm.get_schedule("energy_optimal", gamma=Beta(1, 2)) == EnergyOptimal(Beta(1, 2))
    schedule = Beta(1, 2)
    assert mdm.get_schedule(schedule) is schedule


@pytest.mark.parametrize(
    ("spec", "params", "error", "parts"),
    [
        ("beta(a=0.9)", {"a": 1}, InvalidValueError, ["'a' is given twice"]),
        ("beta(a=1, b=1, a=2)", {}, InvalidValueError, ["given twice"]),
        ("beta(1, 1, a=2)", {}, InvalidValueError, ["multiple values", "beta(a, b)"]),
        ("beta", {}, InvalidValueError, ["missing", "'a'", "beta(a, b)"]),
        ("beta(0.9)", {}, InvalidValueError, ["missing", "'b'", "beta(a, b)"]),
        ("beta(1, 2, 3)", {}, InvalidValueError, ["too many", "beta(a, b)"]),
        ("beta(alfa=1, b=2)", {}, InvalidValueError, ["no parameter 'alfa'", "beta(a, b)"]),
        ("polynomial", {"power": 2}, InvalidValueError, ["no parameter 'power'", "polynomial(p)"]),
        (
            "geometric(sigma_mim=1)",
            {},
            InvalidValueError,
            ["sigma_mim", "Did you mean 'sigma_min'"],
        ),
        ("linear", {"a": 1}, InvalidValueError, ["no parameter 'a'", "linear()", "It takes none"]),
        ("beta(a=0, b=1)", {}, InvalidValueError, ["'beta'", "a must be", "(0, ", "got 0.0"]),
        ("beta(a='x', b=1)", {}, InvalidTypeError, ["a must be", "'x'"]),
        ("energy_optimal(gamma=beta(a=-1, b=1))", {}, InvalidValueError, ["a must be", "-1"]),
        ("beta(a=nan, b=1)", {}, InvalidValueError, ["a must be a finite number", "nan"]),
        ("beta(a=inf, b=1)", {}, InvalidValueError, ["a must be a finite number", "inf"]),
        (
            "energy_optimal(gamma=bta(a=1, b=1))",
            {},
            UnknownNameError,
            ["'bta'", "Did you mean 'beta'"],
        ),
        ("energy_optimal(gamma=sin)", {}, UnknownNameError, ["'sin'", "Did you mean 'sine'"]),
        ("LINEAR", {}, UnknownNameError, ["'LINEAR'", "Did you mean 'linear'"]),
        ("tabulated([0.5, 1])", {}, InvalidValueError, ["got 0.5 to 1.0"]),
        ("tabulated([0, 0.5, 0.5, 1])", {}, InvalidValueError, ["knot 2 is 0.5 after 0.5"]),
        ("tabulated([0, 1e999, 1])", {}, InvalidValueError, ["got inf"]),
        (
            "bta",
            {},
            UnknownNameError,
            ["no schedule is named 'bta'", "Did you mean 'beta'", "Known: beta, cosine"],
        ),
        ("Beta(a=1, b=1)", {}, UnknownNameError, ["'Beta'", "Did you mean 'beta'"]),
        ("cosin", {}, UnknownNameError, ["Did you mean 'cosine'"]),
        ("zzz", {}, UnknownNameError, ["'zzz'", "Known:"]),
        ("", {}, UnknownNameError, ["''"]),
        ("params", {"spec_": 1}, UnknownNameError, ["'params'"]),
    ],
)
def test_errors_say_what_was_given_and_what_is_right(
    spec: str, params: dict[str, object], error: type[Exception], parts: list[str]
) -> None:
    with pytest.raises(error) as caught:
        mdm.get_schedule(spec, **params)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize(
    "spec", [None, 5, 0.5, b"linear", ["linear"], {"name": "linear"}, Linear, object()]
)
def test_what_is_no_spec(spec: object) -> None:
    with pytest.raises(
        InvalidTypeError, match=r"a schedule must be a name.*for example get_schedule\("
    ):
        mdm.get_schedule(spec)  # type: ignore[arg-type]


def test_parameters_for_something_already_built(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidValueError, match=r"\['a'\] cannot be added to linear\(\), which is already built"
    ):
        mdm.get_schedule(Linear(), a=1)
    Linear().save_pretrained(tmp_path)
    with pytest.raises(InvalidValueError, match="cannot be added to the schedule saved in"):
        mdm.get_schedule(tmp_path, a=1)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    schedule = Beta(0.9, 0.3)
    schedule.save_pretrained(tmp_path / "mine")
    for spec in (
        tmp_path / "mine",
        str(tmp_path / "mine"),
        "./mine",
        "mine",
        "mine/",
        "mine/schedule.json",
    ):
        assert mdm.get_schedule(spec) == schedule
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mdm.get_schedule("~/mine") == schedule
    for missing in (
        "./nobody",
        "nobody/schedule.json",
        "/nobody",
        "~/nobody",
        "~nobody-has-this-name/x",
        "./\0",
        "./\ud800",
    ):
        with pytest.raises(StorageError):
            mdm.get_schedule(missing)


def test_a_folder_does_not_hide_a_schedule_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beta").mkdir()
    Polynomial(3).save_pretrained(tmp_path / "linear")
    assert mdm.get_schedule("linear") == Linear()
    assert mdm.get_schedule("beta", a=1, b=1) == Beta(1, 1)
    assert mdm.get_schedule("./linear") == Polynomial(3)


def test_a_nested_spec_reads_no_file(tmp_path: Path) -> None:
    """Text in a schedule file must not make us read another file, nor the same one forever."""
    Linear().save_pretrained(tmp_path)
    for read in (
        EnergyOptimal,
        schedules.read,
        lambda text: mdm.get_schedule(f"energy_optimal(gamma={text!r})"),
    ):
        with pytest.raises(UnknownNameError):
            read(str(tmp_path))
    document = json.loads((tmp_path / "schedule.json").read_text())
    document |= {"name": "energy_optimal", "params": {"gamma": str(tmp_path)}}
    (tmp_path / "schedule.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="no schedule is named"):
        mdm.get_schedule(tmp_path)


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
