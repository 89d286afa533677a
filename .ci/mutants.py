"""Mutation testing: does a test fail where an operator, a number or a comparison is changed?

The mutants are those of cosmic-ray (`pip install cosmic-ray`; Python 3.11 or later). Its own runner
starts Python anew for each, which takes longer than the tests. Here pytest collects once for each
module, and each mutant is a fork of that process, in which the functions of the module get the
code of the mutant. What runs when the module is imported (defaults, constants, decorators) is
mutated in a fork of a process that has imported torch, but nothing of ours. No file changes.

    python .ci/mutants.py                          # all modules of pyproject.toml, 60 mutants each
    python .ci/mutants.py plan sampling/commits    # some of them
    python .ci/mutants.py --number 0 plan          # every mutant, not a sample
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import gc
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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[1]
PRELOAD = ("torch", "numpy", "scipy.special", "safetensors.torch", "hypothesis", "transformers")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "-W", "ignore")


# ----- Mutants -----


@dataclass
class Mutant:
    """One change of one module."""

    module: str
    operator: str
    occurrence: int
    line: int
    diff: list[str]
    outcome: str = ""
    tests: int = 0
    seconds: float = 0.0


def meaning(source: str) -> str:
    """The syntax tree without annotations, which do nothing when it runs."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def places(source: str) -> list[tuple[str, int]]:
    """Every operator of cosmic-ray and occurrence of what it changes."""
    nodes = list(ast_nodes(get_ast(source)))
    kinds = {name: plugins.get_operator(name) for name in plugins.operator_names()}
    return [
        (name, occurrence)
        for name, kind in kinds.items()
        if not kind.arguments()
        for occurrence in range(sum(len(list(kind().mutation_positions(node))) for node in nodes))
    ]


def mutants(module: str, source: str, where: list[tuple[str, int]]) -> Iterator[tuple[Mutant, str]]:
    """The mutants in these places that differ in meaning, and their sources."""
    seen = {meaning(source)}
    for name, occurrence in where:
        mutated = mutate_code(source, plugins.get_operator(name)(), occurrence)
        try:
            key = meaning(mutated)
            compile(mutated, module, "exec")
        except (SyntaxError, TypeError):
            continue
        if key not in seen:
            seen.add(key)
            lines = difflib.unified_diff(source.splitlines(), mutated.splitlines(), n=0)
            diff = list(lines)[2:]
            line = int(re.match(r"@@ -(\d+)", diff[0]).group(1))
            yield Mutant(module, name, occurrence, line, diff[1:]), mutated


def statement(tree: ast.Module, line: int) -> set[int]:
    """The lines of the innermost statement; of one with a body, those of its head."""
    lines = range(line, line + 1)
    for node in ast.walk(tree):  # from the outer ones to the inner ones
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            lines = range(node.lineno, max(end, node.lineno) + 1)
    return set(lines)


def body_lines(tree: ast.Module) -> set[int]:
    """Lines that run only when a function is called."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {
        line
        for node in functions
        for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)
    }


# ----- Two ways to put a mutant in place -----


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


def codes(code: CodeType) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from codes(one)


def functions(path: Path) -> list[Any]:
    """The functions of a module that is imported, and what caches their results."""
    every = [one for one in gc.get_objects() if getattr(one, "__module__", "") == module_of(path)]
    caches = [one for one in every if hasattr(type(one), "cache_clear")]
    made = [one for one in gc.get_objects() if isinstance(one, FunctionType)]
    return caches + [one for one in made if one.__code__.co_filename == str(path)]


def patch(path: Path, mutated: str, every: list[Any]) -> None:
    """Give these functions the code of the mutant."""
    new = {
        (code.co_qualname, code.co_firstlineno): code
        for code in codes(compile(mutated, str(path), "exec"))
    }
    for one in every:
        if isinstance(one, FunctionType):
            key = one.__code__.co_qualname, one.__code__.co_firstlineno
            one.__code__ = new.get(key, one.__code__)
        else:
            one.cache_clear()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


# ----- Forks -----


def fork(work: Callable[[], int], limit: float, log: str) -> str:
    """`work` in a fork of this process: survived (0), killed, or timeout."""
    pid = os.fork()
    if not pid:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        try:
            status = work()
        except BaseException:
            status = 1
        os._exit(min(status, 255))
    end, nap = time.monotonic() + limit, 0.002
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(nap)
        nap = min(0.05, nap * 1.5)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "timeout"


class Session:
    """A pytest plugin that runs the mutants of a module in place of the tests, in forks.

    A first fork runs all tests once, and notes which lines of the module each runs.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.session = session
        self.items = {item.nodeid: item for item in session.items}
        names, run = list(self.items), self.run
        known = fork(lambda: self.note(names), 900, run.log)
        if known != "survived":
            raise SystemExit(f"{run.module}: tests fail without a mutant:\n{read(run.log)[-2000:]}")
        reach = json.loads(Path(run.reach).read_text())
        importlib.import_module(module_of(run.path))  # adapters are loaded when they are asked for
        every = functions(run.path)
        gc.collect()
        gc.freeze()  # so that forks copy little
        for mutant, mutated in run.in_bodies:
            tests = run.choose(mutant, reach)

            def work(mutated=mutated, tests=tests) -> int:
                patch(run.path, mutated, every)
                return self.play(tests)

            run.judge(mutant, tests, work)
        return True

    def play(self, names: list[str]) -> int:
        for name, following in zip(names, [*names[1:], None], strict=True):
            item = self.items[name]
            after = None if following is None else self.items[following]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self.session.testsfailed:
                print(f"\nFAILED {name} - ", flush=True)
                return 1
        return 0

    def note(self, names: list[str]) -> int:
        lines: dict[str, list[int]] = {}
        seconds: dict[str, float] = {}
        seen: set[int] = set()
        file = str(self.run.path)

        def local(frame, event, value):
            seen.add(frame.f_lineno)
            return local

        def trace(frame, event, value):
            return local if frame.f_code.co_filename == file else None

        threading.settrace(trace)
        for name, following in zip(names, [*names[1:], None], strict=True):
            began = time.process_time()
            seen.clear()
            after = None if following is None else self.items[following]
            sys.settrace(trace)
            self.items[name].config.hook.pytest_runtest_protocol(
                item=self.items[name], nextitem=after
            )
            sys.settrace(None)
            lines[name], seconds[name] = sorted(seen), time.process_time() - began
        Path(self.run.reach).write_text(json.dumps({"lines": lines, "seconds": seconds}))
        return self.session.testsfailed


# ----- A module -----


class Run:
    """The mutants of one module, those in bodies of functions and the others."""

    def __init__(self, module: str, tests: list[str], chosen: argparse.Namespace) -> None:
        self.module, self.tests, self.chosen = module, tests, chosen
        self.path = ROOT / "mdm_schedules" / f"{module}.py"
        self.log, self.reach = tempfile.mktemp(), tempfile.mktemp()
        self.options = [*OPTIONS, *([] if chosen.slow else ["-m", "not slow"])]
        self.kills: Counter[str] = Counter()
        source = self.path.read_text()
        self.tree = ast.parse(source)
        where = places(source)
        self.places = len(where)
        random.Random(chosen.seed).shuffle(where)
        sample = list(islice(mutants(module, source, where), chosen.number or None))
        self.bodies = body_lines(self.tree)
        self.in_bodies = [pair for pair in sample if pair[0].line in self.bodies]
        self.others = [pair for pair in sample if pair[0].line not in self.bodies]

    def choose(self, mutant: Mutant, reach: dict[str, Any]) -> list[str]:
        """Tests that run the changed statement: those that killed before, then the fastest.

        What would not fit in the budget leaves room for others.
        """
        near, seconds = statement(self.tree, mutant.line), reach["seconds"]
        able = [
            test
            for test, lines in reach["lines"].items()
            if mutant.line not in self.bodies or near & set(lines)
        ]
        chosen, spent = [], 0.0
        for test in sorted(able, key=lambda t: (-self.kills[t], seconds[t])):
            if spent + seconds[test] < self.chosen.budget:
                chosen.append(test)
                spent += seconds[test]
        return chosen or sorted(able, key=seconds.get)[:1]

    def judge(self, mutant: Mutant, tests: list[str], work: Callable[[], int]) -> None:
        began = time.monotonic()
        mutant.outcome = fork(work, self.chosen.limit, self.log) if tests else "survived"
        mutant.seconds, mutant.tests = round(time.monotonic() - began, 2), len(tests)
        if mutant.outcome == "killed":
            self.kills.update(re.findall(r"^(?:FAILED|ERROR) (.+?) - ", read(self.log), re.M))
        with self.chosen.output.open("a") as file:
            file.write(json.dumps(asdict(mutant)) + "\n")
        if mutant.outcome == "survived":
            print(f"{self.module}:{mutant.line}", *mutant.diff, sep="\n", flush=True)

    def at_import(self) -> None:
        """The mutants outside of functions, each with its own import of the package."""
        reach = json.loads(Path(self.reach).read_text())
        for mutant, mutated in self.others:
            tests = self.choose(mutant, reach)

            def work(mutated=mutated, tests=tests) -> int:
                sys.meta_path.insert(0, Mutated(self.path, mutated))
                return int(pytest.main([*self.options, *tests]))

            self.judge(mutant, tests, work)


def read(log: str) -> str:
    return Path(log).read_text(errors="replace") if os.path.exists(log) else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("modules", nargs="*", help="as in pyproject.toml; default all")
    parser.add_argument("--number", type=int, default=60, help="mutants per module; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--limit", type=float, default=120, help="seconds per mutant")
    parser.add_argument("--budget", type=float, default=3, help="seconds of tests per mutant")
    parser.add_argument("--slow", action="store_true", help="with the tests marked slow")
    parser.add_argument("--output", type=Path, default=Path("mutants.jsonl"), help="appended to")
    chosen = parser.parse_args()
    chosen.output = chosen.output.absolute()
    os.chdir(ROOT)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.mkdtemp()
    import tomllib

    table = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["mutants"]
    for name in PRELOAD:
        importlib.import_module(name)
    for module in chosen.modules or table:
        run = Run(module, table[module], chosen)
        start = chosen.output.stat().st_size if chosen.output.exists() else 0
        pid = os.fork()
        if not pid:
            with contextlib.redirect_stderr(sys.stderr):
                options = [*run.options, "-s", *run.tests]
                os._exit(min(255, int(pytest.main(options, plugins=[Session(run)]))))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == pytest.ExitCode.INTERNAL_ERROR:  # it said so: tests fail without a mutant
            continue
        run.at_import()
        with contextlib.suppress(OSError):
            with chosen.output.open() as file:
                file.seek(start)
                outcomes = [json.loads(line)["outcome"] for line in file]
            killed = len(outcomes) - outcomes.count("survived")
            print(
                f"{module}: {killed} of {len(outcomes)} killed, in {run.places} places", flush=True
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
