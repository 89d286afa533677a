"""Proves that a native model answers as the released code, on a tiny random model loaded both ways.

    python examples/native_equality.py llada FOLDER_WITH_THE_RELEASED_CODE

The folder holds the family's configuration_*.py and modeling_*.py, as in its repository, and what
it generates with: generate.py of LLaDA's GitHub repository, generation_utils.py of Dream. Their
code is executed, so use a copy that you trust and a version of transformers that runs it (4.57 for
most). The released code makes a tiny model with random weights and saves it in the released format.
The script then loads that model natively, from the files alone, and gives both the same tokens. It
prints the largest differences of logits and of hidden states, and how many of the tokens differ
that the family's own sampler and `mdm_schedules.generate` write at temperature 0, each with the
model that it loaded. With --time it prints the ratio of the times of a forward pass instead.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

import mdm_schedules as mdm
from mdm_schedules.integrations.transformers.native import load_native

MASK = 95
PROMPTS = ((8, 16), (5, 19))  # lengths of prompt and answer: whole blocks of 8, and not
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


# for --time
LARGER: dict[str, dict[str, Any]] = {
    "llada": {
        "d_model": 512,
        "mlp_hidden_size": 1024,
        "n_layers": 6,
        "n_heads": 8,
        "n_kv_heads": 8,
    },
    "others": {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 512,
    },
}
LARGER["llada"]["max_sequence_length"] = 512
LARGER["llada_moe"] = {**LARGER["others"], "moe_layer_freq": [0, 1, 1, 1, 1, 1]}


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
    with torch.no_grad():  # as after training, the mask is never the most probable token
        model.get_output_embeddings().weight[MASK] = 0
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
        if name in SAMPLERS and not ones:
            pairs = list(SAMPLERS[name](theirs, ours))
            different = sum(int((one != two).sum()) for one, two in pairs)
            answer["tokens that differ"] = f"{different} of {sum(x.numel() for x, _ in pairs)}"
        return answer


# --- the family's own sampler, and ours, on the same prompts


def even_plan(masks: int, steps: int) -> list[int]:
    """Return LLaDA's and LLaDA2's plan: equal counts, the remainder in the first steps."""
    return [masks // steps + (i < masks % steps) for i in range(steps)]


def dream_plan(masks: int, steps: int, eps: float = 1e-3) -> list[int]:
    """Return Dream's plan: the share 1 - s / t of what is left, rounded down; all at the end."""
    times = torch.linspace(1, eps, steps + 1)
    plan = []
    for i in range(steps):
        share = 1 - times[i + 1] / times[i] if i < steps - 1 else 1
        plan.append(int(masks * share))
        masks -= plan[-1]
    return plan


def prompts(length: int) -> torch.Tensor:
    """Return two prompts of one length."""
    return torch.randint(3, 90, (2, length), generator=torch.Generator().manual_seed(length))


def llada_tokens(theirs: Any, ours: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what LLaDA's generate.py and `mdm.generate` write."""
    released = importlib.import_module("released_code.generate").generate
    # tokens, block, steps, guidance
    settings = ((24, 24, 24, 0.0), (24, 8, 12, 0.0), (24, 8, 9, 0.0), (20, 20, 7, 0.0))
    for new, block, steps, scale in (*settings, (24, 8, 12, 1.5)):
        for padding in (0, 3):
            ids = prompts(9)
            own = torch.ones_like(ids)
            own[0, :padding] = 0
            one = released(
                theirs, ids, own, steps=steps, gen_length=new, block_length=block,
                cfg_scale=scale, mask_id=MASK,
            )  # fmt: skip
            plan = even_plan(block, steps * block // new)
            two = mdm.generate(
                ours, ids, own, max_new_tokens=new, block_length=block, plan=plan, cfg_scale=scale
            )
            yield one[:, 9:], two.sequences[:, 9:]


def dream_tokens(theirs: Any, ours: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what Dream's diffusion_generate and `mdm.generate` write."""
    names = {"maskgit_plus": "low_confidence", "topk_margin": "margin", "entropy": "entropy"}
    config_class = importlib.import_module("released_code.generation_utils").DreamGenerationConfig
    for length, new in PROMPTS:
        for steps in (new, 8, 5):
            for theirs_called, ours_called in names.items():
                ids = prompts(length)
                config = config_class(
                    max_new_tokens=new, steps=steps, alg=theirs_called, mask_token_id=MASK
                )
                one = theirs.diffusion_generate(ids, generation_config=config)
                plan = [count for count in dream_plan(new, steps) if count]
                two = mdm.generate(ours, ids, max_new_tokens=new, plan=plan, remasking=ours_called)
                yield one[:, length:], two.sequences[:, length:]


def llada2_tokens(theirs: Any, ours: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what LLaDA2's generate and `mdm.generate` write, one prompt at a time."""
    block = ours.config.block_length

    plain = theirs.forward

    def forward(*args: Any, attention_mask: torch.Tensor, **options: Any) -> Any:
        # its generate makes the mask in bfloat16, whatever the model is in
        return plain(*args, attention_mask=attention_mask.to(ours.dtype), **options)

    theirs.forward = forward
    for length, new in (*PROMPTS, (3, 11), (13, 9)):
        for steps, threshold in ((8, 2.0), (4, 2.0), (3, 2.0), (4, 0.3)):
            ids = prompts(length)[:1]
            one = theirs.generate(
                ids, gen_length=new, block_length=block, steps=steps, threshold=threshold,
                temperature=0.0, eos_id=-1, mask_id=MASK,
            )  # fmt: skip
            options = {"threshold": threshold} if threshold < 1 else {}
            two = mdm.generate(
                ours, ids, max_new_tokens=new, plan=even_plan(block, steps), **options
            )
            yield one, two.sequences[:, length:]


SAMPLERS = {
    "llada": llada_tokens,
    "llada_moe": llada_tokens,
    "dream": dream_tokens,
    "llada2": llada2_tokens,
}


def time_ratio(name: str, code: Path, implementation: str) -> str:
    """Return the median times of a forward pass of a larger model, and their ratio."""
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        folder = Path(place)
        TINY[name][1].update(LARGER.get(name, LARGER["others"]))
        theirs = released_model(name, code, folder, implementation)
        ours = load_native(folder, attn_implementation=implementation, dtype=torch.float32)
        tokens = torch.randint(3, 90, (2, 256))
        options: dict[str, Any] = {}
        if name in ("llada2", "sdar"):
            options["attention_mask"] = block_mask(256, ours.config.block_length, name == "sdar")
        times: dict[int, list[float]] = {0: [], 1: []}
        for i in range(42):
            start = time.perf_counter()
            if i % 2:
                ours(tokens)
            else:
                theirs(tokens, **options)
            times[i % 2].append(time.perf_counter() - start)
        one, two = (statistics.median(times[i][1:]) for i in (0, 1))
        return f"released {one * 1e3:.0f} ms, native {two * 1e3:.0f} ms, ratio {two / one:.3f}"


def main() -> None:
    """Run the comparison that the module describes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=sorted(TINY))
    parser.add_argument("code", type=Path, help="folder with the released code")
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"))
    parser.add_argument("--time", action="store_true", help="print times of a forward pass")
    args = parser.parse_args()
    about = (
        f"{args.family}, {args.attention}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}: "
    )
    if args.time:
        print(about + time_ratio(args.family, args.code, args.attention))
        return
    found = compare(args.family, args.code, args.attention)
    print(
        about
        + ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in found.items()
        )
    )


if __name__ == "__main__":
    main()
