"""generate_distributed on any number of processes: equal tokens, prompt errors, kept results."""

import json
import os
import random
import signal
import time

import pytest
import transformers
from accelerate_jobs import (
    OPTIONS,
    Processes,
    call,
    different_arguments,
    different_prompts,
    each,
    failing,
    file_on_one_machine,
    load,
    on_a_small_disk,
    own_stream,
    ragged,
    run,
    slow_model,
    spread,
)

from mdm_schedules.errors import DistributedError, InvalidValueError, StorageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the records of `slow_model` for 60 prompts when nothing goes wrong."""
    path = tmp_path_factory.mktemp("undisturbed") / "out.jsonl"
    slow_model(path, 60, 0)
    return path.read_bytes()


def test_the_same_bytes_on_any_number_of_processes_in_any_batches(tmp_path):
    prompts = ragged(70)
    call(prompts, output_path=tmp_path / "alone", batch_size=8)
    expected = (tmp_path / "alone").read_bytes()
    records = [json.loads(line) for line in expected.splitlines()]
    assert [record["index"] for record in records] == list(range(70))
    assert len({record["text"] for record in records}) > 60
    for world, batch_size in ((2, 8), (3, 8), (4, 8), (1, 3), (2, 3), (1, 32), (3, 32)):
        path = tmp_path / f"{world}-{batch_size}"
        outs = run(
            world,
            call,
            prompts,
            output_path=path,
            batch_size=batch_size,
            split=("even", "dynamic")[world % 2],
        )
        assert [(out["prompts"], out["done_before"], out["tokens"]) for out in outs] == [
            (70, 0, 840)
        ] * world
        assert path.read_bytes() == expected
    model, tokenizer = load()
    for record in records[10:13]:  # a record holds all that is needed to write it again
        ids = tokenizer(
            prompts[record["index"]], return_tensors="pt", add_special_tokens=False
        ).input_ids
        out = model.generate(ids, **{**OPTIONS, "seed": [record["seed"]]})
        assert out.sequences[0].tolist() == record["tokens"]


def test_records_in_order_on_every_process(tmp_path):
    outs = run(
        3, call, ragged(11), num_return_sequences=2, remasking="low_confidence", progress=True
    )
    assert outs[0] == outs[1] == outs[2]
    records = outs[0]["records"]
    assert [(record["index"], record["sample"]) for record in records] == [
        (n, k) for n in range(11) for k in (0, 1)
    ]
    assert (
        records
        == call(ragged(11), num_return_sequences=2, remasking="low_confidence", batch_size=4)[
            "records"
        ]
    )
    assert len({record["seed"] for record in records}) == 22
    assert (
        sum(a["answer"] != b["answer"] for a, b in zip(records[::2], records[1::2], strict=True))
        == 11
    )


def test_fewer_prompts_than_processes_and_streams(tmp_path):
    outs = run(
        4,
        each,
        [(call, (ragged(2),), {}), (own_stream, (str(tmp_path / "out"),), {}), (call, ([],), {})],
    )
    for few, stream, none in outs:
        assert few["records"] == call(ragged(2))["records"]
        assert (stream["prompts"], stream["records"]) == (11, [])
        assert isinstance(none, InvalidValueError)
    records = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [record["id"] for record in records] == [f"p{n}" for n in range(11)]
    assert [record["tokens"] for record in records] == [
        record["tokens"] for record in call(ragged(11))["records"]
    ]


def test_a_failing_process_ends_all_and_says_where(monkeypatch):
    start = time.monotonic()
    first, second = run(2, failing, 1, 5)
    assert time.monotonic() - start < 60
    assert isinstance(second, DistributedError)
    assert "ZeroDivisionError: as the test wants it (process 1, in the batch of prompt" in str(
        second
    )
    assert isinstance(first, DistributedError)
    assert "process 1 failed" in str(first)
    # the traceback of the other process
    assert 'raise ZeroDivisionError("as the test wants it")' in first.told
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(DistributedError, match=r"in the batch of prompt 2, prompt 3\)"):
        failing(0, 5)


def test_processes_that_do_not_want_the_same(tmp_path):
    (tmp_path / "p.txt").write_text("def f(")
    calls = [
        (file_on_one_machine, (tmp_path / "p.txt",), {}),
        (different_arguments, (), {"schedule": ["linear", "beta(a=0.9, b=0.3)"]}),
        (different_arguments, (), {"batch_size": [2, 3]}),
        (different_prompts, (), {}),
    ]
    for missing, schedules, sizes, prompts in run(2, each, calls):
        assert isinstance(missing, StorageError)
        assert "does not exist" in str(missing)
        assert isinstance(schedules, DistributedError)
        assert "schedule is 'linear()' in process 0, and in process 1 'beta(a=0.9, b=0.3)'" in str(
            schedules
        )
        assert "batch_size is 2" in str(sizes)
        assert "different prompts" in str(prompts)


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_process_loses_nothing(seed, tmp_path, undisturbed):
    source = random.Random(seed)
    path = tmp_path / "out.jsonl"
    for kill in range(3):
        world = source.choice([1, 2, 3])
        victim, moment = source.randrange(world), source.uniform(0, 1)
        job = Processes(world, slow_model, path, 60, 0.1 / world)
        # a death before this point is left to the launcher, or to torch's own timeout
        job.wait_for_prompts(tmp_path)
        time.sleep(moment)
        job.kill(victim)
        start = time.monotonic()
        answers = job.answers()
        assert time.monotonic() - start < 30
        for rank, answer in enumerate(answers):
            # all was done before, or another process says that this one is gone; never a result
            # without it
            gone = isinstance(answer, DistributedError)
            assert gone or answer is None or path.exists(), (kill, rank, answer)
        assert not path.exists() or path.read_bytes() == undisturbed
    (out,) = run(1, slow_model, path, 60, 0)
    assert out.prompts == 60
    assert path.read_bytes() == undisturbed
    left = sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith("begun"))
    assert left == ["out.jsonl", "out.jsonl.run.json"]


def test_a_silent_process_is_noticed(tmp_path):
    job = Processes(2, slow_model, tmp_path / "out.jsonl", 60, 0.3)
    job.wait_for_prompts(tmp_path)
    os.kill(job.processes[1].pid, signal.SIGSTOP)
    try:
        assert job.pipes[0].poll(60)
        answer = job.pipes[0].recv()
    finally:
        job.kill()
    assert isinstance(answer, DistributedError)
    assert "process 1 failed: it has given no sign of life for 3 seconds" in str(answer)
    assert (
        len((tmp_path / "out.jsonl.shards/rank-00000.jsonl").read_bytes().splitlines()) < 80
    )  # it did not do all first


def test_two_runs_on_one_output(tmp_path):
    path = tmp_path / "out.jsonl"
    job = Processes(1, slow_model, path, 60, 0.2)
    job.wait_for_prompts(tmp_path)
    with pytest.raises(StorageError, match="another run is writing"):
        slow_model(path, 60, 0)
    job.kill()
    job.answers()
    assert slow_model(path, 60, 0).prompts == 60


def test_a_full_disk(tmp_path, undisturbed):
    path = tmp_path / "out.jsonl"
    ((first, left, second),) = run(1, on_a_small_disk, 2500, path, 60)
    assert isinstance(first, StorageError)
    assert "File too large; finished batches are kept" in str(first)
    assert left == ["lock", "rank-00000.jsonl", "run.json"]
    assert 0 < second.done_before < 60
    assert path.read_bytes() == undisturbed
    # no room in the merge, or before
    run(1, on_a_small_disk, len(undisturbed) - 100, tmp_path / "other.jsonl", 60)
    assert (tmp_path / "other.jsonl").read_bytes() == undisturbed


@pytest.mark.parametrize(
    ("kind", "world"), [("fsdp", 2), ("tensor", 2), ("lanes", 4), ("tp_plan", 2)]
)
def test_weights_spread_over_processes(kind, world):
    if kind == "tp_plan" and transformers.__version__ < "5":
        pytest.skip("transformers 4 takes no plan for this model")
    for whole, parts, passes, spent in run(world, spread, kind, ragged(9), batch_size=2):
        assert [record["tokens"] for record in parts] == [record["tokens"] for record in whole]
        assert passes == spent
