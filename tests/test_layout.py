"""The rooms of the project: allowed imports, the cost of importing, and the wheel's contents."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import mdm_schedules as mdm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mdm_schedules"
HEAVY = ("transformers", "diffusers", "accelerate", "optuna", "matplotlib")

in_the_tree = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree"
)


# --- arrows


def modules() -> Iterator[tuple[str, Path]]:
    """Return every module of the package by its installed name."""
    for folder, prefix in (
        (PACKAGE, "mdm_schedules"),
        (ROOT / "integrations", "mdm_schedules.integrations"),
    ):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            # the link to integrations is followed by some versions of Python, not by others
            if folder != PACKAGE or parts[0] != "integrations":
                yield ".".join([prefix, *(part for part in parts if part != "__init__")]), file


MODULES = dict(modules())


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(body: list[ast.stmt], inside_functions: bool) -> Iterator[ast.stmt]:
    """Yield the statements that run when the module is imported.

    If requested, also yield those that run when its functions are called.
    """
    for node in body:
        yield node
        if isinstance(node, ast.If) and is_type_checking(node.test):
            yield from statements(node.orelse, inside_functions)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or inside_functions:
            for part in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, part, []), inside_functions)
            for handler in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
                yield from statements(handler.body, inside_functions)


def imports(name: str, inside_functions: bool = False) -> set[str]:
    """Return the full names of our modules that a module imports."""
    file = MODULES[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in statements(ast.parse(file.read_text(encoding="utf-8")).body, inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            assert base is not None
            found |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
                for alias in node.names
            }
    return {target for target in found if target.split(".")[0] == "mdm_schedules"}


#: the rooms from the ground up; a module imports from lower floors and from its own room only
FLOORS = (
    ("_version", "_watch", "errors"),
    ("checks",),
    ("files", "plan", "registry"),
    ("plotting", "prompt_files", "sketch"),
    ("hub",),
    ("schedules",),
    ("models", "presets"),
    ("lookup",),
    ("energy", "information"),
    ("sampling",),
    ("tuning",),
    ("testing", "integrations"),
    ("explorer",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room(name: str) -> str:
    """Return the room of a module; "" for the package itself, which looks up names of all."""
    return ".".join(name.split(".")[1:2])


def allowed(name: str, target: str) -> bool:
    """The rule for imports, at module level and inside functions alike."""
    if not room(name):
        return True
    if not room(target):
        return False  # everybody may be imported by the package, so nobody imports it
    return room(name) == room(target) or FLOOR_OF[room(target)] < FLOOR_OF[room(name)]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return strongly connected components of more than one module."""
    found, index, low, stack = [], {}, {}, []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(component)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_the_checker_sees_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        import mdm_schedules.errors, torch
        from mdm_schedules import plan
        from . import energy
        from .sampling.loop import sample
        if TYPE_CHECKING:
            from mdm_schedules.integrations import models
        else:
            import mdm_schedules.hub
        try:
            pass
        except ImportError:
            import mdm_schedules.cli
        class A:
            import mdm_schedules.testing
        def f():
            import mdm_schedules.registry
    """
    (tmp_path / "probe.py").write_text(textwrap.dedent(code))
    monkeypatch.setitem(MODULES, "mdm_schedules.probe", tmp_path / "probe.py")
    seen = {name.removeprefix("mdm_schedules.") for name in imports("mdm_schedules.probe")}
    assert seen == {"errors", "plan", "energy", "sampling.loop", "hub", "cli", "testing"}
    assert "mdm_schedules.registry" in imports("mdm_schedules.probe", inside_functions=True)


@in_the_tree
def test_arrows_go_down_also_inside_functions() -> None:
    wrong = [
        (name, target)
        for name in MODULES
        for target in imports(name, inside_functions=True)
        if not allowed(name, target)
    ]
    assert not wrong
    assert len(MODULES) > 100


@in_the_tree
def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    # a package that gathers the names of its modules is no circle: they do not import it
    graph = {name: imports(name, inside_functions=True) - {name} for name in MODULES}
    assert not circles(graph)


@in_the_tree
def test_files_are_short() -> None:
    """The limits of STYLE.md are about 150 lines, and 400 at the most."""
    long = {
        name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in MODULES.items()
    }
    assert not {name: lines for name, lines in long.items() if lines > 400}


# --- imports


def run_python(code: str, folder: Path, python: str | Path = sys.executable) -> str:
    """What `code` prints in `folder`, without PYTHONPATH."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(python), "-c", textwrap.dedent(code)]
    run = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=variables)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_importing_the_package_imports_no_framework(tmp_path: Path) -> None:
    code = f"""
        import sys, torch
        before = set(sys.modules)
        import mdm_schedules as mdm
        mdm.get_schedule("linear").plan(16, 4)
        mdm.list_schedules()
        dir(mdm)
        new = set(sys.modules) - before
        print(sorted(name for name in {(*HEAVY, "scipy", "huggingface_hub", "safetensors")!r} if name in new))
        print(sorted(name for name in new if "integrations" in name))
    """
    assert run_python(code, tmp_path).split() == ["[]", "[]"]


def test_public_names_resolve() -> None:
    assert len(set(mdm.__all__)) == len(mdm.__all__)
    assert list(mdm.__all__) == sorted(mdm.__all__)
    assert set(mdm.__all__) <= set(dir(mdm))
    for name in mdm.__all__:
        assert getattr(mdm, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = mdm.nothing
    from mdm_schedules.errors import MDMError

    assert mdm.errors.MDMError is MDMError


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib import metadata

    assert metadata.version("mdm-schedules") == mdm.__version__


# --- the wheel, the sdist, and the four ways to install


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, with its link, so that nothing is left in the tree itself."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("needs the source tree")
    copy = tmp_path_factory.mktemp("copy") / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("*.egg-info", ".*", "*.tmp", "__pycache__")
    # the last two must stay outside
    for name in ("mdm_schedules", "integrations", "examples", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored, symlinks=True)
    return copy


@pytest.fixture(scope="session")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from that sdist."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(tree)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return folder


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(built: Path) -> Path:
    (found,) = built.glob("*.tar.gz")
    return found


def sources() -> set[str]:
    """The package's files by the names they are installed under."""
    # the link is followed by some versions of Python, not by others
    found = [file for file in PACKAGE.rglob("*.py") if PACKAGE / "integrations" not in file.parents]
    return {file.relative_to(ROOT).as_posix() for file in found} | {
        f"mdm_schedules/{file.relative_to(ROOT).as_posix()}"
        for file in (ROOT / "integrations").rglob("*.py")
    }


@pytest.mark.slow
def test_wheel_and_sdist_hold_each_file_once(wheel: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
        assert all(member.isfile() for member in members)  # no link, which Windows could not unpack
        names = [member.name.partition("/")[2] for member in members]
    for held in (names, zipfile.ZipFile(wheel).namelist()):
        assert len(set(held)) == len(held)
        assert sources() <= set(held)
        # the folder behind the link is there under the package's name only
        assert not [name for name in held if name.startswith("integrations/")]
        assert len([name for name in held if name.endswith("transformers/auto.py")]) == 1


def environment_with(folder: Path, *install: str) -> Path:
    """The Python of a new virtual environment that sees the packages of this one, after an
    installation.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python3*/site-packages")
    # folders named in a .pth file come after its own, and their own .pth files are not read
    seen = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(seen))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall"]
    command += ["--disable-pip-version-check", *install]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return python


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "editable"])
def test_the_package_is_whole_in_the_clones_root_and_elsewhere(
    way: str, tree: Path, tmp_path: Path
) -> None:
    install = ["-e", str(tree)] if way == "editable" else [str(tree)]
    python = environment_with(tmp_path / "venv", *install)
    installed = tree if way == "editable" else tmp_path / "venv"
    for folder in (tree, tmp_path):
        code = """
            import importlib.util
            import mdm_schedules
            print(mdm_schedules.__file__)
            print(importlib.util.find_spec("mdm_schedules.integrations.transformers").origin)
        """
        found = run_python(code, folder, python).split()
        if folder == tmp_path:  # in the clone's root the folder there comes first
            assert all(installed in Path(place).parents for place in found)


@pytest.mark.slow
def test_the_wheel_of_the_sdist_works_from_anywhere(
    wheel: Path, tree: Path, tmp_path: Path
) -> None:
    """`build` makes the wheel from the sdist, so that either is tried by this one installation."""
    python = environment_with(tmp_path / "venv", str(wheel))
    code = "import mdm_schedules as mdm; print(mdm.AutoModelForMaskedDiffusion)"
    assert "mdm_schedules.integrations.transformers" in run_python(code, tree, python)
    (target,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    code = f"""
        import pathlib, sys
        import mdm_schedules as mdm
        from mdm_schedules.demo import models as demo_models
        from mdm_schedules.testing import check_schedule

        target = pathlib.Path({str(target)!r})
        assert mdm.__version__ == {mdm.__version__!r}
        check_schedule(mdm.get_schedule("beta(a=0.9, b=0.3)"))
        assert {{row.source for row in mdm.list_schedules()}} == {{"mdm-schedules"}}, mdm.list_schedules()
        for name in mdm.__all__:
            getattr(mdm, name)
        assert mdm.list_presets()
        ours = {{name: module for name, module in sys.modules.items() if name.split(".")[0] == "mdm_schedules"}}
        outside = [name for name, module in ours.items() if not target in pathlib.Path(module.__file__).parents]
        assert not outside, outside
        assert "mdm_schedules.integrations.transformers" in ours
        for name in ("code", "sudoku"):
            assert (demo_models.path(name) / "model.safetensors").stat().st_size > 100_000
            assert target in demo_models.path(name).parents
        print("works")
    """
    assert run_python(code, tmp_path, python) == "works\n"
    names = {path.name for path in target.iterdir() if "mdm" in path.name}
    assert names == {"mdm_schedules", f"mdm_schedules-{mdm.__version__}.dist-info"}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    information = f"mdm_schedules-{mdm.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"mdm_schedules", information}
    expected = sources()
    expected |= {file.relative_to(ROOT).as_posix() for file in PACKAGE.glob("presets/*.json")}
    expected |= {"mdm_schedules/py.typed", "mdm_schedules/integrations/transformers/auto.py"}
    for model in ("code", "sudoku"):
        expected |= {
            f"mdm_schedules/demo/models/{model}/{file}"
            for file in ("model.safetensors", "config.json")
        }
    assert expected <= set(names)
    assert f"{information}/entry_points.txt" in names
    assert any("LICENSE" in name for name in names if name.startswith(information))
    unwanted = (".pyc", ".tmp", ".pt", ".bin", ".pkl", ".pickle", ".ckpt")
    assert not [name for name in names if name.endswith(unwanted) or "__pycache__" in name]
    # two models of at most 12 and 3 MB
    assert sum(info.file_size for info in zipfile.ZipFile(wheel).infolist()) < 18_000_000


# --- tests


@in_the_tree
def test_tests_mirror_the_rooms():
    """A folder of tests is named as the room that it tests; a file beside them tests a module."""
    rooms = {path.name for above in (PACKAGE, ROOT) for path in above.iterdir() if path.is_dir()}
    bridges = {path.name for path in (ROOT / "integrations").iterdir() if path.is_dir()}
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("**/test_*.py"))}
    assert folders <= rooms
    inside = (ROOT / "tests/integrations").iterdir()
    assert {path.name for path in inside if any(path.rglob("test_*.py"))} <= bridges
    loose = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    modules = {f"test_{path.stem}" for path in PACKAGE.glob("*.py")}
    assert loose - modules == {"test_layout", "test_types"}


@in_the_tree
def test_the_tests_that_are_to_kill_mutants_exist():
    tomllib = pytest.importorskip("tomllib")
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutants"]
    for module, tests in table.items():
        for file in (f"mdm_schedules/{module}.py", *tests):
            assert (ROOT / file).is_file(), (module, file)
