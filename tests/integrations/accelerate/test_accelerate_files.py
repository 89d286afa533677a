"""generate_distributed in one process: its input, its output, its refusals and its resumption."""

import gc
import importlib.util
import json
import logging
import os
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from accelerate_jobs import OPTIONS, call, load, ragged, slow_model

import mdm_schedules as mdm
from mdm_schedules.errors import FormatError, InvalidTypeError, InvalidValueError, StorageError
from mdm_schedules.integrations.accelerate.shards import Output
from mdm_schedules.sampling.noise import derive_seeds

pytestmark = pytest.mark.slow


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def interrupted(path, after, **options):
    """Run 60 prompts until a fault of the model ends the run after so many calls."""
    calls = []

    def stop(info):
        calls.append(info)
        if len(calls) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slow_model(path, 60, 0, callback=stop, **options)
    assert not path.exists()
    return path.with_name(path.name + ".shards") / "rank-00000.jsonl"


# --- seeds


def test_seeds_come_from_the_seed_and_the_index_alone():
    seeds = derive_seeds(7, range(5000), 3)
    assert len(set(seeds)) == 15000
    assert derive_seeds(7, [17, 4], 3) == seeds[51:54] + seeds[12:15]
    assert not set(derive_seeds(8, range(5000))) & set(seeds)
    assert (
        len({*derive_seeds(-1, [0]), *derive_seeds(2**64 - 2, [0]), *derive_seeds(2**63, [0])}) == 3
    )
    bits = np.array(seeds, dtype=np.int64).view(np.uint64)
    ones = [(bits >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(64)]
    assert np.abs(np.array(ones) - 0.5).max() < 0.03  # six standard errors


# --- what is read


def test_files_lists_and_streams_are_the_same(tmp_path):
    texts = [text for text in ragged(12) if text.strip()]
    expected = [record["tokens"] for record in call(texts)["records"]]
    _, tokenizer = load()
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(texts).encode())
    (tmp_path / "ids.jsonl").write_text(
        "\n".join(json.dumps({"prompt": row, "id": 7}) for row in ids)
    )
    stream = ({"prompt": text, "other": 1} for text in texts)
    if importlib.util.find_spec("datasets"):  # no dependency of ours
        import datasets

        stream = datasets.Dataset.from_dict({"prompt": texts, "other": texts}).to_iterable_dataset()
    for prompts in (
        tmp_path / "texts.txt",
        str(tmp_path / "ids.jsonl"),
        [np.array(row) for row in ids],
        (torch.tensor(row) for row in ids),
        stream,
    ):
        records = call(prompts, batch_size=5)["records"]
        assert [record["tokens"] for record in records] == expected
        assert all(
            record["text"].startswith(text) for record, text in zip(records, texts, strict=True)
        )


def test_a_bad_line_stops_or_is_skipped(tmp_path):
    path, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(
        b'{"prompt": "def f("}\n\n{"prompt": \n["a"]\n{"text": "x"}\n"\xff"\n"import "\n{"prompt": 5}\n'
    )
    with pytest.raises(FormatError, match=r"line 3 of p\.jsonl: not JSON .*on_error='skip'"):
        call(path)
    assert call(path, output_path=out, on_error="skip", batch_size=2)["skipped"] == 5
    good, *bad = lines(out)
    assert good["text"].startswith("def f(")
    assert [record.get("error", "")[:22] for record in bad] == [
        "line 3 of p.jsonl: not",
        "line 4 of p.jsonl: a p",
        'line 5 of p.jsonl: "pr',
        "line 6 of p.jsonl: not",
        "",
        "line 8 of p.jsonl: a p",
    ]
    assert call(path, output_path=out, on_error="skip")["done_before"] == 7


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (
            [5] * 250,
            "prompt 1: prompt and answer take 262 tokens, but the model has positions for 256",
        ),
        ([5, 4096], "prompt 1: token id 4096 lies outside the vocabulary, [0, 4095]"),
        ([-1], "prompt 1: token id -1 lies outside"),
        ([[5]], "prompt 1: a prompt must be text or a flat list of token ids"),
        ([5.5], "a flat list"),
        ([True], "a flat list"),
        (None, "a flat list"),
        ({"id": [1], "prompt": "x"}, '"id" must be'),
        ("a\ud800", "prompt 1: the tokenizer refuses it"),
    ],
)
def test_a_wrong_prompt_is_named(prompt, text):
    prompts = ["def f(", prompt, "import "]
    with pytest.raises((FormatError, InvalidValueError)) as error:
        call(prompts)
    assert text in str(error.value)
    out = call(prompts, on_error="skip")
    assert text in out["records"][1]["error"]
    assert [record["index"] for record in out["records"]] == [0, 1, 2]
    assert out["records"][2]["tokens"] == call(["def f(", "x", "import "])["records"][2]["tokens"]


def test_masks_in_prompts():
    options = {"max_new_tokens": None, "steps": None}
    with pytest.raises(InvalidValueError, match="prompt 1: nothing to generate"):
        call([[5, 1, 1, 6], [5, 6]], **options)
    with pytest.raises(
        InvalidValueError, match="prompt 0: it holds the mask token, which infill=False refuses"
    ):
        call([[5, 1, 1, 6]], infill=False)
    records = call([[5, 1, 1, 6], [1, 7, 9]], **options)["records"]
    assert [(record["tokens"][0], record["nfe"]) for record in records] == [
        (5, 2),
        (records[1]["tokens"][0], 1),
    ]
    assert all(1 not in record["tokens"] for record in records)


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n  \n")
    for prompts in (tmp_path / "empty.jsonl", [], iter(())):
        with pytest.raises(InvalidValueError, match="there are no prompts"):
            call(prompts, output_path=tmp_path / "out")
    with pytest.raises(
        StorageError, match="does not exist; for a single prompt give a list of one"
    ):
        call("def f(")
    with pytest.raises(StorageError, match="is not a file"):
        call(tmp_path)
    for prompts in (torch.zeros(2, 3), {"prompt": ["x"]}, 5, b"x"):
        with pytest.raises(InvalidTypeError, match="prompts must be a list"):
            call(prompts)
    with pytest.raises(InvalidTypeError, match="need a tokenizer"):
        mdm.generate_distributed(load()[0], ["x"], max_new_tokens=4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"on_error": "ignore"}, "on_error must be 'stop' or 'skip'"),
        ({"split": "chunks"}, "split must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"stepz": 4}, "Did you mean 'steps'"),
        ({"streamer": None}, "no option 'streamer'"),
        ({"seed": [1, 2]}, "seed must be an integer"),
        ({"plan": [[1, 2]]}, "plan must be one list"),
        ({"steps": 0}, "in the batch of prompt 0"),
        ({"schedule": "lineer"}, "Did you mean 'linear'"),
    ],
)
def test_wrong_options(options, text):
    with pytest.raises((InvalidValueError, InvalidTypeError, KeyError)) as error:
        call(["x"], **options)
    assert text in str(error.value)


# --- what is gone on from


def test_a_torn_last_line_at_every_byte(tmp_path, caplog):
    path = tmp_path / "out.jsonl"
    slow_model(tmp_path / "whole.jsonl", 60, 0)
    shard = interrupted(path, 7)
    content = shard.read_bytes()
    ends = [0]
    for line in content.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    whole = [
        end
        for end, line in zip(ends[1:], content.splitlines(), strict=True)
        if line.startswith(b'{"batch')
    ]
    assert len(whole) == 3
    for cut in range(0, len(content) + 1):
        shard.write_bytes(content[:cut])
        finished, _ = Output(path)._scan(mend=True)
        kept = sum(end <= cut for end in whole)
        assert finished.count == 3 * kept
        assert shard.stat().st_size == (whole[kept - 1] if kept else 0)
    shard.write_bytes(content + b"\0" * 50 + b'{"index": 3, "tok')
    with caplog.at_level(logging.WARNING, "mdm_schedules"):
        assert slow_model(path, 60, 0).done_before == 9
    assert "cut 67 bytes of an unfinished batch" in caplog.text
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_other_settings_are_refused_unless_told(tmp_path):
    path = tmp_path / "out.jsonl"
    interrupted(path, 5)
    for changed, text in (
        ({"schedule": "sine"}, "schedule was 'linear()', now 'sine()'"),
        ({"top_k": 3}, "options.top_k was None, now 3"),
        ({"add_special_tokens": True}, "options.add_special_tokens was False, now True"),
    ):
        with pytest.raises(InvalidValueError) as error:
            slow_model(path, 60, 0, **changed)
        assert text in str(error.value)
        assert "force_resume=True" in str(error.value)
    with pytest.raises(InvalidValueError, match="prompts up to 58 are not those"):
        slow_model(path, 59, 0)
    assert slow_model(path, 60, 0, schedule="sine", force_resume=True).done_before == 6
    with pytest.raises(
        InvalidValueError, match=r"the finished output .* schedule was 'sine\(\)', now 'linear"
    ):
        slow_model(path, 60, 0)
    assert slow_model(path, 60, 0, overwrite=True).done_before == 0
    before = path.stat()
    again = slow_model(path, 60, 0)
    assert (again.prompts, again.done_before, again.nfe) == (60, 60, 0)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    with pytest.raises(InvalidValueError, match="prompts up to 60 are not those"):
        slow_model(path, 61, 0)


def test_a_smaller_batch_after_an_interruption(tmp_path):
    slow_model(tmp_path / "whole.jsonl", 60, 0)
    interrupted(tmp_path / "out.jsonl", 9)
    rows = []
    out = slow_model(
        tmp_path / "out.jsonl",
        60,
        0,
        batch_size=2,
        callback=lambda info: rows.append(len(info.tokens)),
    )
    assert out.done_before == 12
    assert max(rows) == 2
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("number", range(4))
def test_an_end_at_any_step_of_the_merge(number, tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    slow_model(tmp_path / "whole.jsonl", 60, 0)
    replace, steps = os.replace, []

    def stop(*args, **options):
        steps.append(args)
        if len(steps) == number + 1:  # run.json, its copy beside the output, the output
            raise KeyboardInterrupt
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        if number == 3:
            patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            slow_model(path, 60, 0)
    (tmp_path / ".out.jsonl.abcdefgh.tmp").touch()
    (tmp_path / ".out.jsonl2.abcdefgh.tmp").touch()
    assert slow_model(path, 60, 0).done_before == (0 if number == 0 else 60)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    left = {
        file.name for file in tmp_path.iterdir() if not file.name.startswith(("begun", "whole"))
    }
    expected = {"out.jsonl", "out.jsonl.run.json", ".out.jsonl2.abcdefgh.tmp"}
    assert left == expected | ({".out.jsonl.abcdefgh.tmp"} if number == 3 else set())


def test_a_drawn_seed_is_found_again(tmp_path):
    first = call(ragged(5), output_path=tmp_path / "out", seed=None)
    assert call(ragged(5), output_path=tmp_path / "out", seed=None)["seed"] == first["seed"]
    assert call(ragged(5), output_path=tmp_path / "other", seed=None)["seed"] != first["seed"]
    assert call(ragged(5), seed=first["seed"])["records"] == lines(tmp_path / "out")
    with pytest.raises(InvalidValueError, match="seed was"):
        call(ragged(5), output_path=tmp_path / "out", seed=1)


def test_without_a_seed_torch_draws_one_so_that_set_seed_repeats_a_run(tmp_path):
    def seed_of(**options):
        torch.manual_seed(3)
        return call(ragged(2), seed=None, **options)["seed"]

    first = seed_of()
    assert seed_of() == seed_of(output_path=tmp_path / "out") == first
    torch.manual_seed(3)
    assert int(torch.randint(2**63 - 1, ())) == first  # as generate draws it, and no number more
    after = torch.get_rng_state()
    torch.manual_seed(3)
    call(ragged(2), seed=None)
    assert torch.equal(torch.get_rng_state(), after)
    call(ragged(2), seed=5)
    assert torch.equal(torch.get_rng_state(), after)


def test_what_stands_in_the_way(tmp_path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("def f(\n")
    with pytest.raises(InvalidValueError, match="output_path is the prompt file itself"):
        call(prompts, output_path=tmp_path / "." / "p.txt", overwrite=True)
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(
        StorageError, match="exists and is no finished output of this call; overwrite=True"
    ):
        call(prompts, output_path=tmp_path / "mine")
    for place in (tmp_path, "/dev/null"):
        with pytest.raises(StorageError, match="cannot write"):
            call(prompts, output_path=place, overwrite=True)
    with pytest.raises(InvalidValueError, match="output_path must name a file"):
        call(prompts, output_path="")
    with pytest.raises(StorageError, match="null character"):
        call(prompts, output_path="a\0b")
    with pytest.raises(StorageError, match=r"cannot write .* is no folder"):
        call(prompts, output_path=tmp_path / "no" / "out")
    call(prompts, output_path=tmp_path / "out")
    (tmp_path / "out").write_text("cut")
    with pytest.raises(StorageError, match="was changed after it was written"):
        call(prompts, output_path=tmp_path / "out")
    call(prompts, output_path=tmp_path / "mine", overwrite=True)
    assert lines(tmp_path / "mine")[0]["index"] == 0
    (tmp_path / "x.shards").mkdir()
    (tmp_path / "x.shards/run.json").write_text("[]")
    with pytest.raises(FormatError, match="no description of a run"):
        call(prompts, output_path=tmp_path / "x")


# --- models


def test_memory_does_not_grow_with_the_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr("mdm_schedules.integrations.accelerate.prompts.WINDOW", 256)

    def model(tokens):
        return torch.ones(1).expand(*tokens.shape, 8)

    def peak(count):
        prompts = ([2 + n % 5, 3, 4] for n in range(count))
        gc.collect()
        tracemalloc.start()
        options = {"mask_token_id": 0, "max_new_tokens": 1, "batch_size": 128, "seed": 0}
        mdm.generate_distributed(model, prompts, output_path=tmp_path / f"{count}", **options)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    few, many = peak(1_024), peak(7_168)
    # 6,144 records as dicts would take 5 MB; what grows are 8 bytes a prompt, twice while an array
    # is extended
    assert many - few < 6_144 * 150
    assert len(lines(tmp_path / "7168")) == 7_168


def test_wrapped_and_compiled_models_and_precision(monkeypatch):
    model, tokenizer = load()
    expected = call(ragged(6))["records"]
    compiled = torch.compile(model, backend="eager")
    for wrapped in (compiled, torch.nn.DataParallel(model)):
        out = mdm.generate_distributed(wrapped, ragged(6), tokenizer=tokenizer, **OPTIONS)
        assert [record["tokens"] for record in out.records] == [
            record["tokens"] for record in expected
        ]
    model.train()
    assert (
        mdm.generate_distributed(model, ragged(6), tokenizer=tokenizer, **OPTIONS).records
        == expected
    )
    assert model.training
    seen = []

    def function(tokens):
        seen.append(torch.is_autocast_enabled("cpu"))
        return torch.zeros(*tokens.shape, 9)

    options = {"mask_token_id": 0, "max_new_tokens": 1}
    mdm.generate_distributed(function, [[1, 2]], **options)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    mdm.generate_distributed(function, [[1, 2]], **options)
    assert (seen[0], seen[-1]) == (False, True)


def test_padding_is_small_and_long_prompts_share_no_batch_with_short_ones():
    shapes = []

    def function(tokens):
        shapes.append(tokens.shape)
        return torch.zeros(*tokens.shape, 9)

    prompts = [[3] * (1 + n % 4) for n in range(40)]  # a function takes no padding
    mdm.generate_distributed(function, prompts, mask_token_id=0, max_new_tokens=1, batch_size=6)
    assert sum(rows for rows, _ in shapes) == 40
    assert sorted({width for _, width in shapes}) == [2, 3, 4, 5]
    assert len(shapes) == 8
