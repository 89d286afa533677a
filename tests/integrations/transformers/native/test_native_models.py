"""Released weights in native models answer as the architectures' descriptions say."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from released import BLOCKS, CONFIGS, MASK, SHIFTED, reference, tokens_of, write
from safetensors.torch import load_file, save_file

import mdm_schedules as mdm
from mdm_schedules.errors import FormatError, InvalidValueError, PluginError, StorageError
from mdm_schedules.integrations.transformers import auto
from mdm_schedules.integrations.transformers.native import load_native
from mdm_schedules.models import get_adapter
from mdm_schedules.models.llada import LLaDAAdapter

pytestmark = pytest.mark.slow

FAMILIES = list(CONFIGS)
CLOSE = 2e-5


@pytest.fixture(autouse=True)
def _quiet():
    transformers.utils.logging.disable_progress_bar()


def assert_same(one, two):
    """Assert the same weights, and equal answers up to rounding, which depends on memory layout."""
    first, second = one.state_dict(), two.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    with torch.no_grad():
        assert (one(tokens_of()).logits - two(tokens_of()).logits).abs().max() < CLOSE


def native(folder, **options):
    return load_native(folder, dtype=torch.float32, **{"mask_token_id": MASK, **options})


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_those_of_the_architecture(tmp_path, family, attention):
    weights = write(tmp_path, family)
    model = native(tmp_path, attn_implementation=attention)
    tokens = tokens_of()
    want = reference(family, weights, tokens, eager=attention == "eager")
    assert (model(tokens).logits - want).abs().max() < CLOSE


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_and_one_file_give_the_same_model(tmp_path, family):
    write(tmp_path / "one", family)
    write(tmp_path / "three", family, shards=3)
    assert_same(native(tmp_path / "one"), native(tmp_path / "three"))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_row_answers_as_it_does_alone(tmp_path, family, attention):
    write(tmp_path, family)
    model = native(tmp_path, attn_implementation=attention)
    tokens = tokens_of()
    own = torch.ones_like(tokens)
    own[0, :5] = 0
    positions = (own.cumsum(1) - 1).clamp(min=0)
    together = model(tokens, attention_mask=own, position_ids=positions).logits
    assert (together[0, 5:] - model(tokens[:1, 5:]).logits[0]).abs().max() < CLOSE
    assert (together[1] - model(tokens[1:]).logits[0]).abs().max() < CLOSE
    get_adapter(model).check_padding()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_differs_by_rounding_only(tmp_path, family):
    write(tmp_path, family)
    tokens = tokens_of()
    exact = native(tmp_path)(tokens).logits
    rounded = load_native(tmp_path, dtype=torch.bfloat16, mask_token_id=MASK)(tokens).logits
    assert rounded.dtype == torch.bfloat16
    error = (rounded.float() - exact).pow(2).mean().sqrt()
    # the choice of experts can turn on a rounding
    assert error < (0.5 if "experts" in str(CONFIGS[family]) else 0.05) * exact.std()


@pytest.mark.parametrize("family", FAMILIES)
def test_save_pretrained_writes_a_native_form_that_is_no_causal_model(tmp_path, family):
    write(tmp_path / "released", family)
    model = native(tmp_path / "released")
    model.save_pretrained(tmp_path / "native")
    again = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "native", dtype=torch.float32
    )
    assert_same(again, model)
    assert again.config.mask_token_id == MASK
    assert again.config.block_length == BLOCKS.get(family)
    with pytest.raises(ValueError, match="for this kind of AutoModel"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "native")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_auto_class_loads_and_writes_without_code_of_the_repository(tmp_path, family):
    write(tmp_path, family)
    (tmp_path / "modeling_x.py").write_text("raise SystemExit('code of the repository ran')")
    (tmp_path / "configuration_x.py").write_text("raise SystemExit('code of the repository ran')")
    given = {} if family in ("a2d-llama", "a2d-qwen3") else None
    options = {"mask_token_id": MASK} if given is not None else {}
    model = mdm.AutoModelForMaskedDiffusion.from_pretrained(
        tmp_path, schedule="sine", dtype=torch.float32, **options
    )
    assert get_adapter(model).shift == (family in SHIFTED)
    out = model.generate(tokens_of()[:, :8], max_new_tokens=16, steps=5)
    assert not (out.sequences == MASK).any()
    assert torch.equal(out.sequences[:, :8], tokens_of()[:, :8])


@torch.no_grad()
def test_shifted_logits_speak_of_the_next_token(tmp_path):
    weights = write(tmp_path, "dream")
    tokens = tokens_of()
    out = mdm.generate(native(tmp_path), tokens, steps=1)
    want = reference("dream", weights, tokens)
    want[..., MASK] = -torch.inf
    shifted = torch.cat([want[:, :1], want[:, :-1]], 1).argmax(-1)
    masked = tokens == MASK
    assert torch.equal(out.sequences[masked], shifted[masked])


def test_the_loss_and_gradients_come_with_gradient_checkpointing(tmp_path):
    write(tmp_path, "llada")
    model = native(tmp_path)
    tokens = tokens_of()
    labels = tokens.masked_fill(tokens != MASK, -100).masked_fill(tokens == MASK, 7)
    plain = model(tokens, labels=labels).loss
    model.train()
    model.gradient_checkpointing_enable()
    loss = model(tokens, labels=labels).loss
    loss.backward()
    assert torch.isclose(loss, plain)
    assert model.model.layers[0].mlp.gate_proj.weight.grad.abs().sum() > 0


def test_a_known_mask_is_taken_only_of_that_released_model(tmp_path):
    config = {"mask_token_id": 50256, "eos_token_id": 2, "pad_token_id": 2}
    write(tmp_path, "llada", **config)
    assert load_native(tmp_path).config.mask_token_id is None
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"mask_token": "[M]", "added_tokens_decoder": {"94": {"content": "[M]"}}})
    )
    assert load_native(tmp_path).config.mask_token_id == 94


def test_two_masks_that_disagree_are_an_error_that_names_both(tmp_path):
    write(tmp_path, "llada")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"mask_token": "[M]", "added_tokens_decoder": {"94": {"content": "[M]"}}})
    )
    with pytest.raises(InvalidValueError, match=r"two mask tokens: 94 by its tokenizer, 95"):
        load_native(tmp_path)
    assert load_native(tmp_path, mask_token_id=94).config.mask_token_id == 94


def test_the_adapter_of_lladas_own_code_knows_masks_by_the_released_vocabulary():
    def mask(size, configured):
        model = torch.nn.Module()
        model.config = transformers.PretrainedConfig(mask_token_id=configured)
        model.get_input_embeddings = lambda: torch.nn.Embedding(size, 1, device="meta")
        return LLaDAAdapter(model).mask_token_id

    assert mask(126464, 50256) == 126336  # LLaDA
    assert mask(157184, None) == 156895  # LLaDA-MoE, whose vocabulary has 126336, too
    assert mask(130000, 50256) is None  # trained anew
    assert mask(130000, 7) == 7


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llada", {"alibi": True}),
        ("llada", {"block_type": "sequential"}),
        ("llada", {"layer_norm_type": "default"}),
        ("llada", {"attention_layer_norm": True}),
        ("llada", {"multi_query_attention": True}),
        ("llada", {"input_emb_norm": True}),
        ("llada", {"scale_logits": True}),
        ("llada", {"activation_type": "swiglu"}),
        ("llada", {"include_bias": True}),
        ("llada", {"block_group_size": 2}),
        ("llada_moe", {"clip_qkv": 8.0}),
        ("llada_moe", {"moe_router_score_function": "sigmoid"}),
        ("llada_moe", {"shared_expert_intermediate_size": 8}),
        ("llada2", {"score_function": "softmax"}),
        ("llada2", {"norm_head": True}),
        ("dream", {"use_sliding_window": True}),
        ("dream", {"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}),
        ("dream", {"hidden_size": -4}),
        ("dream", {"vocab_size": "many"}),
    ],
)
def test_a_config_value_that_cannot_be_mapped_is_refused_by_its_name(tmp_path, family, change):
    write(tmp_path, family, **change)
    (tmp_path / "model.safetensors").unlink()  # found before any weight is looked for
    with pytest.raises(InvalidValueError, match=next(iter(change))):
        load_native(tmp_path)


def test_a_class_of_other_code_is_refused_although_its_model_type_is_known(tmp_path):
    write(tmp_path, "dream", architectures=["DreamForCausalLM"], block_size=32)
    with pytest.raises(InvalidValueError, match=r"DreamForCausalLM.*trust_remote_code=True"):
        mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path)


def test_missing_unknown_and_misshapen_weights_are_named(tmp_path):
    weights = write(tmp_path, "llada")
    weights["model.transformer.blocks.0.odd.weight"] = torch.zeros(2)
    weights.pop("model.transformer.blocks.1.q_proj.weight")
    weights["model.transformer.ln_f.weight"] = torch.zeros(3)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(FormatError) as error:
        load_native(tmp_path)
    for name in ("blocks.1.q_proj", "blocks.0.odd", "ln_f.weight [3] instead of [64]"):
        assert name in str(error.value)


def test_a_config_that_lies_about_sizes_is_found_by_the_headers(tmp_path):
    write(tmp_path, "llada2", num_experts=16, n_group=4)
    with pytest.raises(FormatError, match=r"missing: .*experts\.8.*misshapen: .*gate"):
        load_native(tmp_path)


def test_torn_and_missing_shards_are_told_from_each_other(tmp_path):
    write(tmp_path, "llada", shards=2)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    for length in (len(whole) - 10, 100, 4):
        shard.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"00002.*torn"):
            load_native(tmp_path)
    shard.unlink()
    with pytest.raises(StorageError, match="names the shard model-00002"):
        load_native(tmp_path)


def test_a_pickle_is_refused_with_how_to_convert_it(tmp_path):
    weights = write(tmp_path, "llada")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"pickle.*save_file"):
        mdm.AutoModelForMaskedDiffusion.from_pretrained(tmp_path)


@torch.no_grad()
def test_tied_weights_and_biases_of_queries_alone(tmp_path):
    weights = write(tmp_path, "llada", weight_tying=True, include_qkv_bias=True)
    weights.pop("model.transformer.ff_out.weight")
    for i in range(3):
        for x, rows in (("q", 64), ("k", 32), ("v", 32)):
            weights[f"model.transformer.blocks.{i}.{x}_proj.bias"] = torch.randn(rows)
    save_file(weights, tmp_path / "model.safetensors")
    model = native(tmp_path)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.model.layers[0].self_attn.o_proj.bias is None
    loaded = load_file(tmp_path / "model.safetensors")
    bias = model.model.layers[2].self_attn.k_proj.bias
    assert torch.equal(bias, loaded["model.transformer.blocks.2.k_proj.bias"])
    assert model(tokens_of()).logits.isfinite().all()


@torch.no_grad()
def test_quantization_device_map_and_config_values_pass_through(tmp_path):
    write(tmp_path, "llada")
    model = load_native(tmp_path, device_map="cpu", block_length=4, dtype=torch.float32)
    assert model.config.block_length == 4
    blind, seeing = model(tokens_of()).logits, native(tmp_path)(tokens_of()).logits
    assert not torch.allclose(blind, seeing)


@pytest.mark.slow
@torch.no_grad()
def test_a_model_is_compiled_and_answers_the_same(tmp_path):
    write(tmp_path, "llada")
    model = native(tmp_path)
    tokens = tokens_of()
    compiled = torch.compile(model, backend="aot_eager")
    assert torch.allclose(compiled(tokens).logits, model(tokens).logits, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_padding_is_tried_in_bfloat16_by_the_spread_of_the_logits(tmp_path, scale):
    write(tmp_path, "llada")
    model = load_native(tmp_path, dtype=torch.bfloat16)
    model.lm_head.weight.mul_(scale)  # single logits then differ by far more than 0.05
    get_adapter(model).check_padding()

    class Deaf(type(get_adapter(model))):
        def forward(self, tokens, attention_mask):
            return self.model(input_ids=tokens).logits

    again = load_native(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(InvalidValueError, match="other logits behind padding"):
        Deaf(again).check_padding()


@torch.no_grad()
@pytest.mark.parametrize(("prompt", "new"), [(8, 16), (5, 11), (3, 20), (13, 9)])
def test_the_last_block_is_written_whole_and_then_cropped(tmp_path, prompt, new):
    """As in LLaDA2's own generate, the canvas ends with a block; a pass reveals one token."""
    write(tmp_path, "llada2")
    model, block = native(tmp_path), 8
    tokens = tokens_of()[:1, :prompt] % 90
    size = -(-(prompt + new) // block) * block
    canvas = torch.nn.functional.pad(tokens, (0, size - prompt), value=MASK)
    for end in range(block, size + 1, block):
        while (canvas[:, :end] == MASK).any():
            logits = model(canvas[:, :end]).logits
            logits[..., MASK] = -torch.inf
            sure, drawn = logits.softmax(-1).max(-1)
            sure[canvas[:, :end] != MASK] = -1
            at = int(sure.argmax())
            canvas[0, at] = drawn[0, at]
    told = []
    out = mdm.generate(
        model,
        tokens,
        max_new_tokens=new,
        output_history=True,
        callback=lambda info: told.append((info.tokens.shape, info.revealed.shape)),
    )
    assert torch.equal(out.sequences, canvas[:, : prompt + new])
    assert set(told) == {((1, prompt + new), (1, prompt + new))}
    assert {state.shape for state in out.history} == {(1, prompt + new)}


@pytest.mark.parametrize(
    "fault",
    [
        "from transformers.gone import Nothing",
        "{}['default']",
        "object().all_tied_weights_keys",
        "assert not 'Torch not compiled with CUDA enabled'",
    ],
)
@pytest.mark.parametrize("version", ["4.57.1", "5.23.0"])
def test_code_that_does_not_run_here_is_told_in_one_line(tmp_path, monkeypatch, fault, version):
    write(tmp_path, "llada")
    (tmp_path / "configuration_x.py").write_text(f"{fault}\nclass X:\n    pass\n")
    monkeypatch.setattr(auto, "_transformers_version", lambda: version)
    with pytest.raises(PluginError, match="load it without trust_remote_code") as error:
        mdm.AutoModelForMaskedDiffusion.from_pretrained(
            tmp_path, schedule="linear", trust_remote_code=True
        )
    assert ("or install transformers 4.57" in str(error.value)) == (version == "5.23.0")
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import mdm_schedules; import transformers",
        "from transformers import AutoModelForMaskedLM; import mdm_schedules, transformers",
    ],
)
def test_plain_transformers_knows_the_native_models_after_the_import(tmp_path, imports):
    write(tmp_path / "a", "llada")
    native(tmp_path / "a").save_pretrained(tmp_path / "b")
    script = (
        f"{imports}\nimport sys\n"
        "model = transformers.AutoModelForMaskedLM.from_pretrained(sys.argv[1])\n"
        "print(type(model).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "b")], capture_output=True, text=True
    )
    assert done.stdout.strip() == "MDMLlamaForMaskedLM", done.stderr[-500:]


@pytest.mark.slow
def test_importing_the_package_imports_no_transformers():
    script = "import sys, mdm_schedules; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
