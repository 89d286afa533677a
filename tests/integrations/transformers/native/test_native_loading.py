"""What from_pretrained of transformers offers works for native models, and bad files are told."""

import fnmatch
import os
import subprocess

import native_models
import pytest
import torch
import transformers
from released import MASK, tokens_of, write

from mdm_schedules.errors import FormatError, InvalidValueError, StorageError
from mdm_schedules.integrations.transformers.native import NATIVE, load_native
from mdm_schedules.integrations.transformers.native import convert as module
from mdm_schedules.integrations.transformers.native.convert import convert

PLAIN = {
    "mdm_llama": "Llama",
    "mdm_qwen2": "Qwen2",
    "mdm_qwen3": "Qwen3",
    "mdm_qwen3_moe": "Qwen3Moe",
    "mdm_glm4_moe": "Glm4Moe",
}


@pytest.mark.parametrize("kind", NATIVE)
def test_the_plans_for_tensor_parallelism_are_those_of_transformers_class(kind):
    model = native_models.build(kind)
    config = getattr(transformers, f"{PLAIN[kind]}Config")()
    assert model.config.base_model_tp_plan == config.base_model_tp_plan
    with torch.device("meta"):
        plain = getattr(transformers, f"{PLAIN[kind]}ForCausalLM")(
            type(config)(**{**native_models.SIZES, **native_models.KINDS[kind]})
        )
    assert model._tp_plan == plain._tp_plan
    assert model._tp_plan
    names = [name for name, _ in model.named_modules()] + [n for n, _ in model.named_parameters()]
    theirs = [name for name, _ in plain.named_modules()] + [n for n, _ in plain.named_parameters()]
    for pattern in model._tp_plan:
        found = fnmatch.filter(names, pattern)
        assert found == fnmatch.filter(theirs, pattern), pattern


@pytest.mark.parametrize("kind", NATIVE)
def test_gradients_are_the_same_with_checkpointing(kind):
    tokens = torch.randint(
        5, native_models.MASK, (2, 9), generator=torch.Generator().manual_seed(0)
    )
    gradients = []
    for checkpointing in (False, True):
        model = native_models.build(kind).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(tokens, labels=tokens).loss.backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)
    assert gradients[0].abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize("place", ["auto", {"": "cpu"}])
def test_a_device_map_places_the_same_weights(tmp_path, place):
    write(tmp_path, "llada2", shards=2)
    model = load_native(tmp_path, device_map=place, dtype=torch.float32)
    want = load_native(tmp_path, dtype=torch.float32)
    assert torch.allclose(model(tokens_of()).logits, want(tokens_of()).logits, atol=2e-5)


def test_quantization_that_is_not_installed_is_named(tmp_path):
    write(tmp_path, "llada")
    with pytest.raises(ImportError, match="bitsandbytes"):
        load_native(
            tmp_path, quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True)
        )


def test_flash_attention_is_refused_where_blocks_need_a_mask():
    model = native_models.build("mdm_qwen3")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InvalidValueError, match=r"cannot attend by blocks.*'sdpa'"):
        model(torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llada", {"n_layers": 1 << 30}),
        ("sdar", {"num_hidden_layers": 1 << 30}),
        ("llada_moe", {"num_experts": 1 << 30}),
        ("llada2", {"num_experts": 1 << 40}),
        ("dream", {"vocab_size": 1 << 40}),
    ],
)
def test_a_config_of_absurd_size_is_refused_before_anything_is_built(tmp_path, family, change):
    write(tmp_path, family, **change)
    with pytest.raises(InvalidValueError, match=f"{next(iter(change))}=.*an integer from 1 to"):
        load_native(tmp_path)


def test_more_layers_than_weights_are_refused_before_anything_is_built(tmp_path):
    write(tmp_path, "llada", n_layers=4000)
    with pytest.raises(FormatError, match="4000 layers, but the files hold 30 weights"):
        load_native(tmp_path)


def test_large_sizes_are_found_by_the_headers_alone(tmp_path):
    write(tmp_path, "llada", d_model=1 << 17, n_heads=1 << 10, mlp_hidden_size=1 << 18)
    with pytest.raises(FormatError, match=r"misshapen: .*\[64\] instead of \[131072\]"):
        load_native(tmp_path)


def test_an_unknown_family_is_told_with_those_that_are_known(tmp_path):
    write(tmp_path, "llada", model_type="llava")
    with pytest.raises(InvalidValueError, match=r"model_type='llava'.*known: LLaDA, .*Dream"):
        load_native(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_disk_that_fills_during_conversion_leaves_whole_files_and_can_go_on(
    tmp_path, monkeypatch
):
    write(tmp_path / "a", "llada")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        usage = module.shutil.disk_usage
        # another program takes the room that was free when it was looked at
        monkeypatch.setattr(
            module.shutil, "disk_usage", lambda path: usage(path)._replace(free=1 << 40)
        )
        with pytest.raises(StorageError, match=r"No space left.*finished files are kept"):
            convert(tmp_path / "a", disk / "b", shard_bytes=60_000)
        there = sorted(os.listdir(disk / "b"))
        assert "config.json" not in there
        assert not [name for name in there if name.endswith(".tmp")]
        whole = [name for name in there if name.endswith(".safetensors")]
        assert whole
        before = {name: (disk / "b" / name).stat().st_mtime_ns for name in whole}
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        convert(tmp_path / "a", disk / "b", shard_bytes=60_000)
        assert all((disk / "b" / n).stat().st_mtime_ns == when for n, when in before.items())
        assert load_native_form(disk / "b").config.mask_token_id == MASK
    finally:
        subprocess.run(["umount", disk], check=True)


def load_native_form(folder):
    return transformers.AutoModelForMaskedLM.from_pretrained(folder)
