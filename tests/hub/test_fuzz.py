"""Over ten thousand damaged or invented files and indexes: our error or a schedule, and no more."""

from __future__ import annotations

import copy
import itertools
import json
import random
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import mdm_schedules as mdm
from mdm_schedules.errors import FormatError, InvalidValueError, StorageError
from mdm_schedules.hub.catalog import Folder, read_index
from mdm_schedules.schedules import Beta, EnergyOptimal, Schedule, Tabulated

pytestmark = pytest.mark.slow

SCORE = mdm.Evaluation(
    model="lab/m", task="t", steps=16, metric="m", value=0.5, sampler={"temperature": 0.0}
)
TABLE = Tabulated(np.linspace(0, 1, 20) ** 2, np.linspace(0, 1, 20) ** 0.5)  # type: ignore[arg-type]
ALLOWED = (FormatError, StorageError, InvalidValueError)
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2,
    0.5,
    1e308,
    10**400,
    "",
    "linear",
    "../x",
    "/etc/passwd",
    "a\0",
    "\ud800",
]
ODD += [
    [],
    {},
    [0, 1],
    [0, 0.7, 0.6, 1],
    [[0, 1]],
    {"tensor": "alpha"},
    {"tensor": "../x"},
    {"tensor": 5},
]
ODD += [{"name": "linear"}, {"name": "beta", "params": {"a": -1}}, "x" * 5000, list(range(2000))]

watching: list[str] | None = None


def watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook that records actions that a reader of data never takes."""
    if watching is None:
        return
    forbidden = (
        "exec",
        "compile",
        "os.system",
        "os.exec",
        "subprocess.Popen",
        "pickle.find_class",
        "socket.connect",
    )
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if (
        event
        in (
            *forbidden,
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.link",
            "os.symlink",
            "marshal.loads",
        )
        or writes
    ):
        watching.append(f"{event} {args!r:.200}")


sys.addaudithook(watch)


def read(ask: Callable[[], object], seen: Counter[str]) -> None:
    """Call `ask()` while watched, and count whether it was refused."""
    global watching
    watching = []
    try:
        ask()
        seen["read"] += 1
        said = ""
    except ALLOWED as error:
        seen["refused"] += 1
        said = str(error)
    finally:
        did, watching = watching, None
    assert not did
    assert len(said) < 3000


def damaged(content: bytes, source: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(source.choice([1, 1, 2, 5])):
        start = source.randrange(len(data) + 1)
        end = min(len(data), start + source.choice([0, 1, 1, 2, 8, 40]))
        pieces = [
            b"",
            bytes([source.randrange(256)]),
            b"NaN",
            b"1e999",
            b'"name": "linear", "name": "x",',
            b"{" * 50,
        ]
        data[start:end] = source.choice(
            [*pieces, data[:start][-20:], b"9" * 400, b"\x00", b"\xff\xff\xff\xff"]
        )
    return bytes(data[: source.randrange(len(data) + 1)] if source.random() < 0.3 else data)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, item in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from nodes(item, (*path, key))


def changed(document: Any, source: random.Random) -> Any:
    """Return `document` with a node or two replaced, removed or renamed."""
    new = copy.deepcopy(document)
    for _ in range(source.choice([1, 1, 2])):
        path = source.choice(list(nodes(new))[1:])
        parent = new
        for key in path[:-1]:
            parent = parent[key]
        match source.randrange(3) if isinstance(parent, dict) else 0:
            case 0:
                parent[path[-1]] = copy.deepcopy(source.choice(ODD))
            case 1:
                del parent[path[-1]]
            case 2:
                parent[f"{path[-1]}_"] = parent.pop(path[-1])
        if len(new) == 0:
            break
    return new


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Path]:
    """Provide a folder whose surroundings must stay unchanged."""
    outside = {tmp_path / "x": b"x", tmp_path / "alpha": b"y"}
    for file, content in outside.items():
        file.write_bytes(content)
    folder = tmp_path / "a" / "folder"
    folder.mkdir(parents=True)
    Beta(0.9, 0.3).save_pretrained(folder, evaluation=SCORE)
    Schedule.from_pretrained(folder)  # imports what it needs before anybody watches
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield folder
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == outside
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["folder"]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (400_000_000 if sys.platform == "darwin" else 400_000), (
        "bytes there, kilobytes elsewhere"
    )


def test_damaged_bytes(sandbox: Path) -> None:
    source, seen = random.Random(0), Counter[str]()
    for schedule in itertools.cycle(
        (Beta(0.9, 0.3), Tabulated([0, 0.5, 1]), TABLE, EnergyOptimal(TABLE))
    ):
        for name in ("schedule.json", "schedule.safetensors"):
            schedule.save_pretrained(sandbox, evaluation=SCORE)
            if (
                not name.endswith("json")
                and b"tensor" not in (sandbox / "schedule.json").read_bytes()
            ):
                continue
            whole = (sandbox / name).read_bytes()
            for _ in range(300):
                (sandbox / name).write_bytes(damaged(whole, source))
                read(lambda: Schedule.from_pretrained(sandbox), seen)
        if seen["refused"] >= 4500:
            break
    assert seen["read"] < seen["refused"]


def test_changed_documents(sandbox: Path) -> None:
    source, seen = random.Random(1), Counter[str]()
    documents = []
    for schedule in (Beta(0.9, 0.3), TABLE, EnergyOptimal(TABLE)):
        schedule.save_pretrained(sandbox, evaluation=SCORE)
        documents.append(json.loads((sandbox / "schedule.json").read_text()))
    while seen["refused"] < 3000:
        text = json.dumps(changed(source.choice(documents), source))
        (sandbox / "schedule.json").write_text(text)
        read(lambda: Schedule.from_pretrained(sandbox), seen)


def test_changed_indexes(sandbox: Path) -> None:
    source, seen = random.Random(2), Counter[str]()
    entries = [
        {"path": f"t-{k}", "schedule": "beta()", "evaluation": SCORE.to_json()} for k in (1, 2, 3)
    ]
    index = {"format_version": "1.0", "schedules": entries}
    while seen["refused"] < 2000:
        (sandbox / "schedules.json").write_text(json.dumps(changed(index, source)))
        read(lambda: read_index(Folder(sandbox)), seen)
        read(lambda: Schedule.from_pretrained(sandbox, task="t", steps=16), Counter())


def test_tables_that_are_none(sandbox: Path) -> None:
    source, seen = np.random.default_rng(3), Counter[str]()
    content = {
        "format_version": "1.0",
        "time": "generation",
        "name": "tabulated",
        "params": {"alpha": {"tensor": "a"}},
    }
    (sandbox / "schedule.json").write_text(json.dumps(content))
    breakers: list[Callable[[np.ndarray], Any]] = [
        lambda a: a[::-1],
        lambda a: a * (1 - 1e-16 - 1e-9),
        lambda a: np.where(source.random(len(a)) < 0.3, np.nan, a),
        lambda a: np.where(np.arange(len(a)) == len(a) // 2, np.inf, a),
        lambda a: np.append(a, 1.0),
        lambda a: source.permutation(a) if len(a) > 3 else a[::-1],
        lambda a: a[None],
        lambda a: a.astype("f4"),
        lambda a: a[:1],
        lambda a: a[:0],
        lambda a: -a,
    ]
    for number in range(600):
        knots = np.concatenate([[0], np.sort(source.random(source.integers(1, 40))), [1]])
        wrong = np.ascontiguousarray(breakers[number % len(breakers)](knots))
        (sandbox / "schedule.safetensors").write_bytes(save({"a": torch.from_numpy(wrong)}))
        read(lambda: Schedule.from_pretrained(sandbox), seen)
    assert seen["refused"] >= 590  # a permutation may be the identity


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(JSON, JSON, JSON)
def test_any_json(sandbox: Path, params: Any, evaluation: Any, gamma: Any) -> None:
    document = {
        "format_version": "1.0",
        "time": "generation",
        "name": "energy_optimal",
        "params": {"gamma": gamma},
    }
    for content in (
        params,
        document,
        {**document, "params": params},
        {**document, "evaluation": evaluation},
    ):
        (sandbox / "schedule.json").write_text(json.dumps(content))
        read(lambda: Schedule.from_pretrained(sandbox), Counter())


def test_the_watch_sees_what_it_should(sandbox: Path) -> None:
    for act in (
        lambda: exec("1"),
        lambda: (sandbox / "y").write_text(""),
        lambda: __import__("pickle").loads(b"cos\nsystem\n."),
    ):
        with pytest.raises(AssertionError):
            read(act, Counter())


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_killed_saves_leave_the_old_schedule_or_the_new_one() -> None:
    script = Path(__file__).parents[2] / "examples/benchmarks/killed_saves.py"
    run = subprocess.run(
        [sys.executable, str(script), "--kills", "40"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "40 processes killed" in run.stdout
