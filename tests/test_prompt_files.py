"""Prompt files: every reader takes the same lines, and says what is wrong with one."""

from pathlib import Path

import pytest

from mdm_schedules.cli.tune import read_instances
from mdm_schedules.errors import FormatError, StorageError
from mdm_schedules.integrations.accelerate.prompts import windows

GOOD = {
    "marked.jsonl": b'\xef\xbb\xbf{"prompt": "a", "answer": "b"}\r\n\r\n{"prompt": "c", "answer": "d"}',
    "separator.jsonl": '{"prompt": "a\u2028", "answer": "b"}\n{"prompt": "c\x85", "answer": ""}\n',
    "CAPITALS.JSONL": '{"prompt": "a", "answer": "b"}\n{"prompt": "c", "answer": "d"}\n',
}
BAD = {
    "not JSON": b'{"prompt": "im[MASK',
    "not UTF-8": b'{"prompt": "\xff"}',
    "too many digits": b'{"prompt": "a", "answer": "b", "n": ' + b"9" * 5000 + b"}",
    "bearable depth": b"[" * 100_000,
    "prompt": b'{"question": "a"}',
}


def save(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize("name", GOOD)
def test_sampling_and_tuning_read_the_same_lines(name: str, tmp_path: Path) -> None:
    file = save(tmp_path, name, GOOD[name])
    rows = read_instances(file)
    assert [row["prompt"][0] for row in rows] == ["a", "c"]
    (window,) = windows(file)
    assert [prompt.content for prompt in window.prompts] == [row["prompt"] for row in rows]


@pytest.mark.parametrize("what", BAD)
def test_a_bad_line_is_named_by_both(what: str, tmp_path: Path) -> None:
    file = save(tmp_path, "bad.jsonl", b'{"prompt": "a", "answer": "b"}\n' + BAD[what] + b"\n")
    with pytest.raises(FormatError, match=f"line 2: .*{what}"):
        read_instances(file)
    (window,) = windows(file)
    good, bad = window.prompts
    assert good.error is None
    assert what in str(bad.error)


def test_an_id_that_cannot_be_printed_is_a_bad_prompt() -> None:
    (window,) = windows([{"prompt": [1, 2], "id": 10**5000}, [10**5000]])
    assert all(prompt.error for prompt in window.prompts)


def test_what_is_no_file_or_empty_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(StorageError, match="prompt file"):
            read_instances(path)
    with pytest.raises(FormatError, match="empty"):
        read_instances(save(tmp_path, "empty.jsonl", b"\n"))
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path, "good.jsonl", GOOD["CAPITALS.JSONL"])
    assert len(read_instances(Path("~/good.jsonl"))) == 2
