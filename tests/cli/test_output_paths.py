"""One rule for every output path: checked before the work, and nothing but a plain file replaced."""

import os
import stat
import threading
from pathlib import Path

import pytest

import mdm_schedules as mdm
from mdm_schedules.cli import main
from mdm_schedules.errors import StorageError
from mdm_schedules.files import check_output, check_output_folder, write_atomically, write_output


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_output(check_output(pipe), b"result")
    reader.join()
    assert read == [b"result"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(StorageError, match="it is no file"):
        write_atomically(pipe, lambda name: Path(name).write_bytes(b""))
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to_and_stays() -> None:
    write_output(check_output("/dev/null"), b"result")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_process_substitution_is_written_to() -> None:
    read, write = os.pipe()
    write_output(check_output(f"/dev/fd/{write}"), b"result")
    os.close(write)
    assert os.read(read, 100) == b"result"
    os.close(read)


def test_a_link_is_followed_and_the_home_folder_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_output(check_output("~/link"), b"result")
    assert (tmp_path / "target").read_bytes() == b"result"
    assert (tmp_path / "link").is_symlink()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none" / "file", tmp_path / "file" / "x"):
        with pytest.raises(StorageError, match="cannot write"):
            check_output(path)
    for use in (check_output, check_output_folder, mdm.InformationProfile.from_pretrained):
        with pytest.raises(StorageError, match="holds a null character"):
            use("a\0b")
    for path in (tmp_path / "file", tmp_path / "file" / "x" / "y"):
        with pytest.raises(StorageError, match="cannot write"):
            check_output_folder(path)
    assert check_output_folder(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "FILE", "--steps", "1", "--output", "PLAIN"],
        ["tune", "FILE", "--steps", "1", "--report", "PLAIN/report.html"],
        ["sample", "--prompts", "FILE", "--output", "PLAIN/answers.jsonl"],
        ["sample", "--prompts", "FILE", "--output", "/dev/null"],
        ["plot", "linear", "--output", "PLAIN/picture.png"],
    ],
    ids=" ".join,
)
def test_commands_refuse_before_the_work(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("mdm_schedules.cli.tune._objective", lambda args: pytest.fail("worked"))
    monkeypatch.setattr("mdm_schedules.cli.sampling.load_model", lambda args: pytest.fail("worked"))
    (tmp_path / "PLAIN").write_text("")
    (tmp_path / "FILE").write_text("prompt\n")
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
