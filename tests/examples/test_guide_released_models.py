"""The Python blocks of the guide to released models, run as written, one after another.

Tiny random weights in the released format stand in a folder that is named as the Hub id.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import native_models
import pytest
import released

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "examples" / "guide" / "released-models.md"
CHAT = "{% for m in messages %}w5 {{ m.content }} <eos>{% endfor %}"


def test_the_blocks_run(tmp_path):
    folder = tmp_path / "GSAI-ML" / "LLaDA-8B-Instruct"
    released.write(folder, "llada")
    tokenizer = native_models.tokenizer(released.V)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    script = "\n".join(blocks) + (
        "\nassert out.sequences.shape[1] - out.prompt_length == 64, out"
        "\nassert type(native).__name__ == 'MDMLlamaForMaskedLM'"
        "\nassert len(answer.texts) == 2\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    want = (folder / "model.safetensors").read_bytes()
    assert len((tmp_path / "llada-released" / "model.safetensors").read_bytes()) == len(want)
