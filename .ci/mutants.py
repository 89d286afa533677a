"""Mutation testing: does a test fail where an operator, a number or a comparison is changed?

The mutants are those of cosmic-ray (`pip install cosmic-ray`). Its own runner starts Python anew
for each of them, which takes longer than the tests; here one process has imported torch and
transformers, and a fork of it runs the tests of each mutant. The mutated source is handed to
`import` in the fork: no file changes. The modules and their tests stand in `pyproject.toml`.

    python .ci/mutants.py                          # all modules
    python .ci/mutants.py plan sampling/commits    # some of them
    python .ci/mutants.py --number 0 plan          # every mutant, not a sample
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib.abc
import importlib.util
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[1]
PRELOAD = ("torch", "numpy", "scipy.special", "safetensors.torch", "hypothesis", "transformers")


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Gives `import` another source for one module."""

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source = path, source
        self.name = ".".join(path.relative_to(ROOT).with_suffix("").parts)

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_source(self, fullname):
        return self.source

    def get_filename(self, fullname):
        return str(self.path)


def meaning(source: str) -> str:
    """The syntax tree without what does nothing when it runs: annotations and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(0) if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def mutants(source: str) -> Iterator[tuple[str, int, str]]:
    """Operator, occurrence and source of every mutant that differs in meaning."""
    tree, seen = get_ast(source), {meaning(source)}
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments():
            continue
        places = sum(1 for node in ast_nodes(tree) for _ in kind().mutation_positions(node))
        for occurrence in range(places):
            mutated = mutate_code(source, kind(), occurrence)
            try:
                key = meaning(mutated)
            except (SyntaxError, TypeError):
                continue
            if key not in seen:
                seen.add(key)
                yield name, occurrence, mutated


class Reach:
    """A pytest plugin that notes which lines of a file each test runs, and for how long."""

    def __init__(self, path: Path, output: str) -> None:
        self.file, self.output = str(path), output
        self.lines: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}
        self.modules: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        seen: set[int] = set()

        def local(frame, event, value):
            if event == "line":
                seen.add(frame.f_lineno)
            return local

        def trace(frame, event, value):
            return local if frame.f_code.co_filename == self.file else None

        began = time.monotonic()
        sys.settrace(trace)
        threading.settrace(trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            self.lines[item.nodeid] = sorted(seen)
            self.seconds[item.nodeid] = time.monotonic() - began

    def pytest_sessionfinish(self):
        own = ("mdm_schedules", "tests", "test_", "conftest", "_pytest", "__main__")
        self.modules = [name for name in sys.modules if not name.startswith(own)]
        Path(self.output).write_text(json.dumps(self.__dict__))


def statement(tree: ast.Module, line: int) -> range:
    """The lines of the innermost statement; of one with a body, those of its head."""
    lines = range(line, line + 1)
    for node in ast.walk(tree):  # from the outer ones to the inner ones
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            lines = range(node.lineno, max(end, node.lineno) + 1)
    return lines


def run_tests(
    path: Path, source: str, tests: list[str], limit: float, log: str, plugins: list[Any] = []
) -> str:
    """The tests in a fork with `source` in the place of the file: survived, killed or timeout."""
    pid = os.fork()
    if not pid:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.meta_path.insert(0, Mutated(path, source))
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--no-header"]
        try:
            status = int(pytest.main([*options, *tests], plugins=plugins))
        except BaseException:
            status = 1
        os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "timeout"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", help="as in pyproject.toml; default all")
    parser.add_argument("--number", type=int, default=60, help="mutants per module; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--limit", type=float, default=120, help="seconds per mutant")
    parser.add_argument("--output", type=Path, default=Path("mutants.jsonl"), help="appended to")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.mkdtemp()
    if sys.version_info < (3, 11):
        raise SystemExit("Python 3.11 is needed, for tomllib")
    import tomllib

    table = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["mutants"]
    for name in PRELOAD:
        importlib.import_module(name)
    log = tempfile.mktemp()
    for module in chosen.modules or table:
        path, tests = ROOT / "mdm_schedules" / f"{module}.py", table[module]
        source = path.read_text()
        reach_file = tempfile.mktemp()
        if run_tests(path, source, tests, 600, log, [Reach(path, reach_file)]) != "survived":
            print(Path(log).read_text()[-3000:])
            print(f"{module}: its tests fail without a mutant", flush=True)
            continue
        reach, tree = json.loads(Path(reach_file).read_text()), ast.parse(source)
        for name in reach["modules"]:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        in_functions = {
            line
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)
        }
        every = list(mutants(source))
        sample = random.Random(chosen.seed).sample(every, len(every))[: chosen.number or None]
        outcomes = []
        for operator, occurrence, mutated in sample:
            began = time.monotonic()
            lines = list(difflib.unified_diff(source.splitlines(), mutated.splitlines(), n=0))[2:]
            line = int(re.match(r"@@ -(\d+)", lines[0]).group(1))
            # the tests that run the changed statement, the fastest first
            near, use = set(statement(tree, line)), tests
            if line in in_functions:
                reaching = [test for test, seen in reach["lines"].items() if near & set(seen)]
                use = sorted(reaching, key=reach["seconds"].get)
            outcome = run_tests(path, mutated, use, chosen.limit, log) if use else "survived"
            outcomes.append(outcome)
            record = {
                "module": module,
                "operator": operator,
                "occurrence": occurrence,
                "outcome": outcome,
                "seconds": round(time.monotonic() - began, 1),
                "tests": len(use),
                "diff": lines,
            }
            with chosen.output.open("a") as file:
                file.write(json.dumps(record) + "\n")
            if outcome == "survived":
                print(module, *lines, sep="\n", flush=True)
        killed = len(outcomes) - outcomes.count("survived")
        print(f"{module}: {killed} of {len(outcomes)} killed (of {len(every)})", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
