"""Prompts appended after a finished run, and runs without any prompt."""

import json

import pytest
from accelerate_jobs import call, ragged

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, StorageError
from mdm_schedules.integrations.accelerate import prompts, shards

TEXTS = [text for text in ragged(40) if text.strip()][:20]


@pytest.fixture(params=[2048, 8], ids=["one window", "several windows"])
def window(request, monkeypatch):
    monkeypatch.setattr(prompts, "WINDOW", request.param)
    monkeypatch.setattr(shards, "WINDOW", request.param)


@pytest.mark.slow
@pytest.mark.parametrize("before", [1, 8, 11])
@pytest.mark.parametrize("copies", [1, 2])
def test_appended_prompts_are_done_and_finished_ones_kept(window, before, copies, tmp_path):
    path, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    options = {"output_path": out, "seed": 3, "num_return_sequences": copies}
    path.write_text("".join(f"{text}\n" for text in TEXTS[:before]))
    call(path, **options)
    kept = out.read_text()
    assert call(path, extend=True, **options)["done_before"] == before
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    with pytest.raises(InvalidValueError):
        call(path, **options)
    assert out.read_text() == kept
    done = call(path, extend=True, **options)
    assert (done["prompts"], done["done_before"]) == (len(TEXTS), before)
    assert out.read_text().startswith(kept)
    whole = tmp_path / "whole.jsonl"
    call(path, **{**options, "output_path": whole})
    assert out.read_text() == whole.read_text()
    assert call(path, **options)["done_before"] == len(TEXTS)


def test_an_extension_that_is_interrupted_goes_on(tmp_path):
    out = tmp_path / "out.jsonl"
    call(TEXTS[:5], output_path=out, seed=3)
    kept = out.read_text()
    with pytest.raises(InvalidValueError):  # the last prompt is too long
        call([*TEXTS[:9], "x" * 5000], output_path=out, seed=3, extend=True)
    call(TEXTS[:10], output_path=out, seed=3, overwrite=True)
    assert out.read_text().startswith(kept)


def test_changed_prompts_are_no_extension(tmp_path):
    out = tmp_path / "out.jsonl"
    call(TEXTS[:5], output_path=out, seed=3)
    kept = out.read_text()
    for texts in (["x", *TEXTS[1:9]], TEXTS[:4]):
        with pytest.raises(InvalidValueError):
            call(texts, output_path=out, seed=3, extend=True)
    with pytest.raises(InvalidValueError, match="other settings"):
        call(TEXTS, output_path=out, seed=4, extend=True)
    with pytest.raises(InvalidTypeError, match="twice"):
        call(iter(TEXTS), output_path=out, seed=3, extend=True)
    assert out.read_text() == kept
    assert not (tmp_path / "out.jsonl.shards").exists()


def test_no_prompts_leave_no_files(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n")
    for source in (path, [], iter([])):
        with pytest.raises(InvalidValueError, match="no prompts"):
            call(source, output_path=tmp_path / "out.jsonl")
        assert [file.name for file in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_an_integer_of_too_many_digits_is_a_bad_line_like_any(tmp_path):
    path, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "id": ' + "9" * 5000 + "}\n")
    assert call(path, output_path=out, on_error="skip")["skipped"] == 1
    assert "too many digits" in json.loads(out.read_text().splitlines()[1])["error"]


def test_a_device_as_output_stays(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        call(TEXTS[:2], output_path="/dev/null", overwrite=True)
