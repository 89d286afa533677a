"""The settings that export writes, read back as SGLang reads them."""

import json

import pytest
import yaml

import mdm_schedules as mdm
from mdm_schedules.cli import main
from mdm_schedules.integrations.engines import BlockSettings


def export(capsys, *words):
    status = main(["export", "sglang", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_file_gives_back_the_settings(capsys, tmp_path):
    file = tmp_path / "mdm.yaml"
    words = ("beta(a=0.9, b=0.3)", "--steps", 8, "--output", file)
    status, out, _ = export(capsys, *words)
    assert status == 0
    assert f"--dllm-algorithm MDMSchedule --dllm-algorithm-config {file}" in out
    settings = yaml.safe_load(file.read_text())
    assert settings == {"schedule": "beta(a=0.9, b=0.3)", "steps": 8}
    more = ("--commit", "threshold(0.9)", "--temperature", 0.5, "--seed", 3, "--block-length", 16)
    status, out, _ = export(capsys, *words, *more, "--json")
    assert status == 0
    settings = yaml.safe_load(file.read_text())
    assert settings == json.loads(out)["settings"]
    assert settings["block_size"] == 16
    assert json.loads(out)["plan"] == mdm.Beta(0.9, 0.3).plan(16, 8).tolist()
    read = BlockSettings.read(settings, 16)
    assert (read.schedule, read.steps, read.temperature) == (mdm.Beta(0.9, 0.3), 8, 0.5)
    assert read.commit.threshold == 0.9


def test_a_schedule_from_a_folder_is_written_out(capsys, tmp_path):
    table = mdm.Tabulated([0, 0.1, 0.7, 1])
    table.save_pretrained(tmp_path / "found")
    status, _, err = export(
        capsys, tmp_path / "found", "--steps", 4, "--output", tmp_path / "mdm.yaml"
    )
    assert (status, err) == (0, "")
    settings = yaml.safe_load((tmp_path / "mdm.yaml").read_text())
    assert BlockSettings.read(settings, 32).schedule == table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("linear", "--steps", 33), "at most the 32 tokens of a block, got 33"),
        (("linear", "--steps", 5, "--block-length", 4), "at most the 4 tokens of a block"),
        (("lineer", "--steps", 4), "'linear'"),
        (("linear", "--steps", 4, "--remasking", "random"), "knows its order without the model"),
        (("linear", "--steps", 4, "--commit", "treshold(0.9)"), "'threshold'"),
    ],
)
def test_what_the_engine_cannot_honour_is_said_and_nothing_is_written(
    capsys, tmp_path, words, message
):
    file = tmp_path / "mdm.yaml"
    status, out, err = export(capsys, *words, "--output", file)
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not file.exists()
