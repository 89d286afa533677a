"""Conversion to native form and back: the same bytes, whatever happens in between."""

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest
import torch
import transformers
from released import CONFIGS, MASK, tokens_of, write
from safetensors.torch import load_file

from mdm_schedules import cli
from mdm_schedules.errors import FormatError, InvalidValueError, StorageError
from mdm_schedules.integrations.transformers.native import convert as module
from mdm_schedules.integrations.transformers.native import load_native
from mdm_schedules.integrations.transformers.native.convert import convert

FAMILIES = list(CONFIGS)


def weights_in(folder):
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.parametrize("shard_bytes", [1 << 40, 100_000])
@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_is_the_same_to_the_last_byte(tmp_path, family, shard_bytes):
    before = write(tmp_path / "a", family, shards=3)
    convert(tmp_path / "a", tmp_path / "b", shard_bytes=shard_bytes, mask_token_id=MASK)
    sums = convert(tmp_path / "b", tmp_path / "c", to="released", shard_bytes=shard_bytes)
    after = weights_in(tmp_path / "c")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert {key: config.get(key) for key in CONFIGS[family]} == CONFIGS[family]
    assert (len(sums) > 1) == (shard_bytes == 100_000)
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / "c" / name).read_bytes()).hexdigest() == digest
    assert json.loads((tmp_path / "c" / "checksums.json").read_text()) == sums


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_native_form_loads_with_plain_transformers(tmp_path, family):
    write(tmp_path / "a", family)
    convert(tmp_path / "a", tmp_path / "b", shard_bytes=100_000, mask_token_id=MASK)
    plain = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "b", dtype=torch.float32)
    direct = load_native(tmp_path / "a", dtype=torch.float32, mask_token_id=MASK)
    want = direct.state_dict()
    assert all(torch.equal(weight, want[name]) for name, weight in plain.state_dict().items())
    assert (plain(tokens_of()).logits - direct(tokens_of()).logits).abs().max() < 2e-5


@pytest.mark.slow
def test_a_conversion_that_was_killed_goes_on_where_it_stopped(tmp_path):
    before = write(tmp_path / "a", "llada", shards=3)
    script = (
        "import os, sys\n"
        "from mdm_schedules.integrations.transformers.native import convert as m\n"
        "whole = m._write\n"
        "def write(path, shard):\n"
        "    if len([x for x in os.listdir(sys.argv[2]) if x.endswith('.safetensors')]) == 3:\n"
        "        open(os.path.join(sys.argv[2], '.torn.safetensors.tmp'), 'wb').write(b'half')\n"
        "        print('ready', flush=True)\n"
        "        import time; time.sleep(600)\n"
        "    return whole(path, shard)\n"
        "m._write = write\n"
        "m.convert(sys.argv[1], sys.argv[2], shard_bytes=60_000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "a"), str(tmp_path / "b")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().strip() == "ready"
    process.kill()
    process.wait()
    assert not (tmp_path / "b" / "config.json").exists()
    finished = {x: x.stat().st_mtime_ns for x in (tmp_path / "b").glob("model-*.safetensors")}
    time.sleep(0.02)
    convert(tmp_path / "a", tmp_path / "b", shard_bytes=60_000)
    assert len(finished) == 3
    assert all(x.stat().st_mtime_ns == when for x, when in finished.items())
    assert not [x for x in os.listdir(tmp_path / "b") if x.startswith(".")]
    convert(tmp_path / "b", tmp_path / "c", to="released")
    after = weights_in(tmp_path / "c")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_finished_file_that_was_damaged_meanwhile_is_written_again(tmp_path, monkeypatch):
    before = write(tmp_path / "a", "llada")
    whole, calls = module._write, []

    def stop_at_third(path, shard):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(path, shard)

    monkeypatch.setattr(module, "_write", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "a", tmp_path / "b", shard_bytes=60_000)
    monkeypatch.undo()
    calls[0].write_bytes(calls[0].read_bytes()[:-4] + b"\0\1\2\3")
    convert(tmp_path / "a", tmp_path / "b", shard_bytes=60_000)
    convert(tmp_path / "b", tmp_path / "c", to="released")
    after = weights_in(tmp_path / "c")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_full_disk_leaves_nothing_half_written_and_can_go_on(tmp_path, monkeypatch):
    write(tmp_path / "a", "llada")
    usage = module.shutil.disk_usage
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(path)._replace(free=10))
    with pytest.raises(StorageError, match="has 10 left; make room and run it again"):
        convert(tmp_path / "a", tmp_path / "b")
    assert not [x for x in os.listdir(tmp_path / "b") if "safetensors" in x]
    monkeypatch.undo()
    convert(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "config.json").exists()


def test_what_cannot_be_converted_is_refused_before_anything_is_written(tmp_path):
    write(tmp_path / "a", "llada", alibi=True)
    with pytest.raises(InvalidValueError, match="alibi"):
        convert(tmp_path / "a", tmp_path / "b")
    write(tmp_path / "c", "llada", n_layers=4)
    with pytest.raises(FormatError, match=r"missing: model\.transformer\.blocks\.3"):
        convert(tmp_path / "c", tmp_path / "b")
    with pytest.raises(InvalidValueError, match="holds no native model"):
        convert(tmp_path / "a", tmp_path / "b", to="released")
    assert not (tmp_path / "b").exists()
    write(tmp_path / "d", "llada")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="is not empty"):
        convert(tmp_path / "d", tmp_path / "full")
    assert os.listdir(tmp_path / "full") == ["mine.txt"]


def test_the_command_line_converts_and_prints_checksums(tmp_path, capsys):
    write(tmp_path / "a", "dream")
    assert cli.main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["form"] == "native"
    assert list(printed["sha256"]) == ["model.safetensors"]
    back = ["convert", str(tmp_path / "b"), str(tmp_path / "c"), "--to", "released"]
    assert cli.main(back) == 0
    assert "in released form" in capsys.readouterr().out
    assert cli.main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "d")]) == 1
