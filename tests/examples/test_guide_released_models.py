"""The Python blocks of the guide to released models, run as written, one after another.

Tiny random weights in the released format stand in a folder that is named as the Hub id.
"""

import native_models
import pytest
import released
from scripts import blocks_of, output_of

pytestmark = pytest.mark.slow

CHAT = "{% for m in messages %}w5 {{ m.content }} <eos>{% endfor %}"


def test_the_blocks_run(tmp_path):
    folder = tmp_path / "GSAI-ML" / "LLaDA-8B-Instruct"
    released.write(folder, "llada")
    tokenizer = native_models.tokenizer(released.V)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    script = "\n".join(blocks_of("released-models.md")) + (
        "\nassert out.sequences.shape[1] - out.prompt_length == 64, out"
        "\nassert type(native).__name__ == 'MDMLlamaForMaskedLM'"
        "\nassert len(answer.texts) == 2\n"
    )
    output_of("-c", script, cwd=tmp_path)
    want = (folder / "model.safetensors").read_bytes()
    assert len((tmp_path / "llada-released" / "model.safetensors").read_bytes()) == len(want)
