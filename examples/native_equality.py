"""Proves that a native model answers as the released code, on a tiny random model loaded both ways.

    python examples/native_equality.py llada FOLDER_WITH_THE_RELEASED_CODE

The folder holds the family's configuration_*.py and modeling_*.py, as in its repository. Their code
is executed, so use a copy that you trust and a version of transformers that runs it (4.57 for
most). The released code makes a tiny model with random weights and saves it in the released format.
The script then loads that model natively, from the files alone, and gives both the same tokens. It
prints the largest differences of logits and of hidden states, and the answers at temperature 0.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

import mdm_schedules as mdm
from mdm_schedules.integrations.transformers.native import load_native

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "mask_token_id": 95,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 4}
# family -> (class in its config.json, values of its config)
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llada": (
        "LLaDAModelLM",
        {
            "d_model": 64,
            "n_layers": 3,
            "n_heads": 4,
            "n_kv_heads": 2,
            "mlp_hidden_size": 96,
            "vocab_size": 96,
            "embedding_size": 128,
            "max_sequence_length": 128,
            "block_type": "llama",
            "layer_norm_type": "rms",
            "activation_type": "silu",
            "rope": True,
            "weight_tying": False,
            "attention_dropout": 0.0,
            "residual_dropout": 0.0,
            "embedding_dropout": 0.0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            "mask_token_id": 95,
        },
    ),
    "dream": ("DreamModel", SIZES),
    "llada_moe": (
        "LLaDAMoEModelLM",
        {
            **{key: value for key, value in SIZES.items() if key != "intermediate_size"},
            **EXPERTS,
            "expert_intermediate_size": 32,
            "dense_intermediate_size": 96,
            "shared_expert_intermediate_size": None,
            "moe_layer_freq": [0, 1, 1],
            "qk_layernorm": True,
            "partial_rotary_factor": 1,
            "num_key_value_heads": 4,
        },
    ),
    "llada2": (
        "LLaDA2MoeModelLM",
        {
            **SIZES,
            **EXPERTS,
            "moe_intermediate_size": 32,
            "num_shared_experts": 1,
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
            "use_bias": False,
            "head_dim": 16,
            "block_length": 8,
        },
    ),
    "a2d-qwen3": ("A2DQwen3LMHeadModel", {**SIZES, "head_dim": 16}),
    "a2d-qwen2": ("A2DQwen2LMHeadModel", SIZES),
    "a2d-llama": ("A2DLlamaLMHeadModel", SIZES),
    "sdar": ("SDARForCausalLM", {**SIZES, "head_dim": 16, "block_size": 4}),
    "fast_dllm_v2": ("Fast_dLLM_QwenForCausalLM", {**SIZES, "bd_size": 32}),
}


def released_model(name: str, code: Path, folder: Path, implementation: str) -> Any:
    """Make a tiny random model with the code in `code`, and save it to `folder` in its format."""
    class_name, values = TINY[name]
    package = folder / "released_code"
    package.mkdir()
    for file in code.glob("*.py"):
        shutil.copy(file, package)
    (package / "__init__.py").write_text("")
    sys.path.insert(0, str(folder))
    text = {file: file.read_text() for file in package.glob("*.py")}
    source = next(file for file, lines in text.items() if f"class {class_name}(" in lines)
    module = importlib.import_module(f"released_code.{source.stem}")
    model_class = getattr(module, class_name)
    config_class = model_class.config_class
    config = config_class(**values, architectures=[class_name])
    # LLaDA's code always uses torch's attention, whatever implementation the config names
    config._attn_implementation = "eager" if name == "llada" else implementation
    torch.manual_seed(0)
    if name == "llada":  # the class insists on a GPU unless it is given its inner model
        inner = module.create_model_config_from_pretrained_config(config)
        inner.init_device = "cpu"
        model = model_class(config, model=module.LLaDAModel(inner, init_params=False))
    else:
        model = model_class(config)
    model = model.float().eval()
    for key, weight in model.state_dict().items():
        if weight.is_floating_point():
            shift = 1.0 if "norm" in key or key.endswith("ln_f.weight") else 0.0
            scale = 0.02 if "bias" in key else 0.1
            weight.copy_(shift + scale * torch.randn(weight.shape))
    weights = {key: weight.contiguous() for key, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    written = {**config.to_dict(), "architectures": [class_name]}
    written["model_type"] = config_class.model_type
    (folder / "config.json").write_text(json.dumps(written, default=str))
    return model


def block_mask(length: int, block: int, ones: bool) -> torch.Tensor:
    """Return the attention mask that the code of block models expects.

    It is 0 where a token is seen and -inf elsewhere, or 1 and 0.
    """
    of = torch.arange(length) // block
    seen = (of[:, None] >= of[None, :]).expand(2, 1, length, length).float()
    return seen if ones else seen.log()


def compare(name: str, code: Path, implementation: str) -> dict[str, Any]:
    """Return the largest differences of one family."""
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        folder = Path(place)
        theirs = released_model(name, code, folder, implementation)
        ours = load_native(folder, attn_implementation=implementation, dtype=torch.float32)
        block = ours.config.block_length
        length = 48
        tokens = torch.randint(3, 95, (2, length))
        tokens[:, 10:] = 95
        options: dict[str, Any] = {}
        # LLaDA2.0's code inverts a mask for eager attention; 2.1's does not
        ones = implementation == "eager" and theirs.config.model_type == "llada2_moe"
        if name in ("llada2", "sdar"):  # Fast-dLLM v2 makes its own mask
            options["attention_mask"] = block_mask(length, block, name == "sdar" or ones)
        asked = {"output_hidden_states": True}
        one = theirs(tokens, **options, **asked)
        two = ours(tokens, **asked)
        answer = {
            "logits": float((one.logits - two.logits).abs().max()),
            "spread": float(two.logits.std()),
        }
        if one.hidden_states is not None:
            pairs = zip(one.hidden_states, two.hidden_states, strict=True)
            answer["hidden states"] = max(float((a - b).abs().max()) for a, b in pairs)
        own = torch.ones(2, length, dtype=torch.long)
        own[0, :5] = 0
        alone = ours(tokens[:1, 5:]).logits
        padded = ours(tokens, attention_mask=own, position_ids=(own.cumsum(1) - 1).clamp(min=0))
        answer["padded"] = float((padded.logits[0, 5:] - alone[0]).abs().max())
        try:
            out = [
                mdm.generate(model, tokens[:, :8], max_new_tokens=16, steps=8, mask_token_id=95)
                for model in (theirs, ours)
            ]
            answer["same tokens"] = bool((out[0].sequences == out[1].sequences).all())
        except Exception as error:
            answer["same tokens"] = f"released code: {type(error).__name__}"
        return answer


def main() -> None:
    """Run the comparison that the module describes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=sorted(TINY))
    parser.add_argument("code", type=Path, help="folder with the released code")
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"))
    args = parser.parse_args()
    found = compare(args.family, args.code, args.attention)
    print(
        f"{args.family}, {args.attention}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}: "
        + ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in found.items()
        )
    )


if __name__ == "__main__":
    main()
