"""The command line as a process: streams, encodings, signals."""

import json
import os
import signal
import time

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and descriptors")


def test_python_dash_m_is_the_command(done):
    status, out, err = done("--version")
    assert (status, err) == (0, "")
    assert out.strip()[0].isdigit()


@posix
@pytest.mark.parametrize("words", [["list"], ["sample", "--prompt", "x", "--max-new-tokens", "2"]])
def test_a_closed_standard_output_is_one_line(words, done):
    status, _, err = done(*words, stdout=None, preexec_fn=lambda: os.close(1))
    assert status == 1
    assert err == "mdm-schedules: standard output is closed; give it a place, such as >/dev/null\n"


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(done):
    with open("/dev/full", "wb") as full:
        status, _, err = done("list", stdout=full)
    assert (status, err) == (1, "mdm-schedules: No space left on device\n")


def test_an_output_that_is_not_utf8_gets_ascii(done):
    status, out, err = done(
        "list", "schedules", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    )
    assert (status, err) == (0, "")
    assert out.isascii()
    assert "linear" in out


@posix
def test_a_prompt_that_is_not_utf8_is_one_line(done):
    status, out, err = done("sample", "--prompt", b"a\xffb", "--max-new-tokens", "2")
    assert (status, out) == (1, "")
    assert err == "mdm-schedules: --prompt is not valid UTF-8: byte 0xff after 1 characters\n"


def test_standard_input_and_output(done):
    words = ["sample", "--prompts", "-", "--max-new-tokens", "4", "--steps", "2", "--seed", "1"]
    status, out, err = done(*words, text="def f(\nimport \n")
    assert status == 0, err
    assert [json.loads(line)["index"] for line in out.splitlines()] == [0, 1]
    assert "2 prompts" in err
    assert "passes" in err
    again = done(
        *words, "--num-processes", "2", text='{"prompt": "def f("}\n{"prompt": "import "}\n'
    )
    assert again[0] == 0, again[2]
    assert again[1] == out  # the tokens depend on neither form nor processes


def test_model_code_that_cannot_be_imported_is_one_line(done, tmp_path):
    (tmp_path / "m").mkdir()
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    (tmp_path / "m/code.py").write_text("from transformers import NoSuchThing\n")
    words = ["sample", "--model", "m", "--prompt", "x", "--max-new-tokens", "2"]
    status, out, err = done(*words)
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert "--trust-remote-code" in err
    status, out, err = done(*words, "--trust-remote-code")
    assert (status, out) == (1, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("mdm-schedules: cannot load m: ")


@posix
@pytest.mark.parametrize(
    ("processes", "number"),
    [(1, "SIGINT"), (1, "SIGHUP"), (2, "SIGINT"), (2, "SIGTERM")],
)
def test_a_signal_says_what_is_kept_and_how_to_go_on(processes, number, command, tmp_path):
    number = getattr(signal, number)
    (tmp_path / "p.txt").write_text("def f(\n" * 4000)
    words = ["sample", "--prompts", "p.txt", "--output", "out file.jsonl", "--overwrite"]
    words += ["--max-new-tokens", "8", "--steps", "8", "--batch-size", "1"]
    process = command(*words, "--num-processes", str(processes))
    shards = tmp_path / "out file.jsonl.shards"
    end = time.monotonic() + 200
    while not any(file.stat().st_size for file in shards.glob("*.jsonl*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    # older transformers speak of the weights as well
    lines = [line for line in err.decode().splitlines() if line.startswith("mdm-schedules: ")]
    assert b"Traceback" not in err
    assert (process.returncode, out) == (128 + number, b"")
    assert len(lines) == 1, lines
    assert "finished prompts are kept in out file.jsonl.shards" in lines[0]
    assert "mdm-schedules sample --prompts p.txt --output 'out file.jsonl' --max-new" in lines[0]
    assert "--overwrite" not in lines[0]
    assert list(shards.iterdir())
