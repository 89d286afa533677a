"""Tiny random models in the released format of each family, and their expected answers.

The references are written from the architectures' descriptions, in plain torch: rotary attention
without a causal mask, RMS norms, SwiGLU, and for LLaDA-MoE and LLaDA2 a mixture of experts.
"""

import json

import torch
from safetensors.torch import save_file
from torch.nn.functional import linear, scaled_dot_product_attention, silu

V, MASK, H, HEADS, KV, LAYERS, WIDE, HEAD = 96, 95, 64, 4, 2, 3, 96, 16
EXPERTS, CHOSEN, NARROW = 8, 3, 32

SIZES = {
    "vocab_size": V,
    "hidden_size": H,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000.0,
    "tie_word_embeddings": False,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "auto_map": {"AutoModel": "modeling_x.X", "AutoConfig": "configuration_x.X"},
}
CONFIGS = {
    "llada": {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "auto_map": SIZES["auto_map"],
        "d_model": H,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "n_kv_heads": KV,
        "mlp_hidden_size": WIDE,
        "mlp_ratio": 4,
        "vocab_size": 90,
        "embedding_size": V,
        "max_sequence_length": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5000.0,
        "block_type": "llama",
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "rope": True,
        "alibi": False,
        "weight_tying": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "multi_query_attention": None,
        "scale_logits": False,
        "input_emb_norm": False,
        "attention_layer_norm": False,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "mask_token_id": MASK,
    },
    "dream": {
        **SIZES,
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "mask_token_id": MASK,
        "use_sliding_window": False,
        "attention_bias": False,
    },
    "llada_moe": {
        **{key: value for key, value in SIZES.items() if key != "intermediate_size"},
        "model_type": "llada",
        "architectures": ["LLaDAMoEModelLM"],
        "num_experts": EXPERTS,
        "num_experts_per_tok": CHOSEN,
        "expert_intermediate_size": NARROW,
        "dense_intermediate_size": WIDE,
        "shared_expert_intermediate_size": None,
        "moe_layer_freq": [0, 1, 1],
        "qk_layernorm": True,
        "partial_rotary_factor": 1,
        "mask_token_id": MASK,
    },
    "llada2": {
        **SIZES,
        "model_type": "llada2_moe",
        "architectures": ["LLaDA2MoeModelLM"],
        "num_experts": EXPERTS,
        "num_experts_per_tok": CHOSEN,
        "num_shared_experts": 1,
        "moe_intermediate_size": NARROW,
        "first_k_dense_replace": 1,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "score_function": "sigmoid",
        "partial_rotary_factor": 0.5,
        "head_dim": HEAD,
        "use_bias": False,
        "use_qkv_bias": False,
        "use_qk_norm": True,
        "block_length": 8,
        "mask_token_id": MASK,
    },
    "sdar": {
        **SIZES,
        "model_type": "sdar",
        "architectures": ["SDARForCausalLM"],
        "head_dim": HEAD,
        "block_size": 4,
        "mask_token_id": MASK,
    },
    "fast_dllm": {
        **SIZES,
        "model_type": "Fast_dLLM_Qwen",
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "bd_size": 8,
        "mask_token_id": MASK,
    },
    "a2d-llama": {**SIZES, "model_type": "a2d-llama", "architectures": ["A2DLlamaLMHeadModel"]},
    "a2d-qwen3": {
        **SIZES,
        "model_type": "a2d-qwen3",
        "architectures": ["A2DQwen3LMHeadModel"],
        "head_dim": HEAD,
    },
}
SHIFTED = ("dream", "fast_dllm")
BLOCKS = {"llada2": 8, "sdar": 4, "fast_dllm": 8}
# names of a layer's weights where they are not those of transformers
LLADA_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def weights_of(family):
    """Return random weights under the released names."""
    rows = {"q": HEADS * HEAD, "k": KV * HEAD, "v": KV * HEAD}
    shapes = {"embed": (V, H), "norm": (H,), "lm_head": (V, H)}
    for i in range(LAYERS):
        shapes |= {
            f"{i}.input_layernorm.weight": (H,),
            f"{i}.post_attention_layernorm.weight": (H,),
        }
        for x, count in rows.items():
            shapes[f"{i}.self_attn.{x}_proj.weight"] = (count, H)
            if family in ("dream", "fast_dllm"):
                shapes[f"{i}.self_attn.{x}_proj.bias"] = (count,)
        shapes[f"{i}.self_attn.o_proj.weight"] = (H, HEADS * HEAD)
        if family in ("llada_moe", "llada2", "sdar", "a2d-qwen3"):
            shapes |= {f"{i}.self_attn.{x}_norm.weight": (HEAD,) for x in "qk"}
        if family in ("llada_moe", "llada2") and i > 0:
            shapes[f"{i}.mlp.gate.weight"] = (EXPERTS, H)
            for e in range(EXPERTS):
                shapes |= mlp_shapes(f"{i}.mlp.experts.{e}", NARROW)
            if family == "llada2":
                shapes[f"{i}.mlp.gate.expert_bias"] = (EXPERTS,)
                shapes |= mlp_shapes(f"{i}.mlp.shared_experts", NARROW)
        else:
            shapes |= mlp_shapes(f"{i}.mlp", WIDE)
    generator = torch.Generator().manual_seed(0)
    plain = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        # biases of experts so low that a wrong choice among groups would show
        wide = -0.8 + 0.3 * noise if "expert_bias" in name else 0.15 * noise
        plain[name] = 1 + 0.1 * noise if "norm" in name else wide
    return {released_name(family, name): weight for name, weight in fused(family, plain)}


def mlp_shapes(stem, width):
    return {
        f"{stem}.gate_proj.weight": (width, H),
        f"{stem}.up_proj.weight": (width, H),
        f"{stem}.down_proj.weight": (H, width),
    }


def fused(family, plain):
    if family != "llada2":
        return plain.items()
    answer = {}
    for name, weight in plain.items():
        if "q_proj" in name:
            parts = [plain[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            answer[name.replace("q_proj", "query_key_value")] = torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            answer[name] = weight
    return answer.items()


def released_name(family, name):
    top = {"embed": "embed_tokens.weight", "norm": "norm.weight"}
    if family == "llada":
        if name in ("embed", "norm", "lm_head"):
            end = {"embed": "wte", "norm": "ln_f", "lm_head": "ff_out"}[name]
            return f"model.transformer.{end}.weight"
        i, _, rest = name.partition(".")
        stem, _, kind = rest.rpartition(".")
        return f"model.transformer.blocks.{i}.{LLADA_NAMES.get(stem, stem)}.{kind}"
    if name == "lm_head":
        return "lm_head.weight"
    if family == "llada2":
        top["embed"] = "word_embeddings.weight"
        name = name.replace("self_attn.o_proj", "attention.dense").replace("self_attn", "attention")
        name = name.replace("q_norm", "query_layernorm").replace("k_norm", "key_layernorm")
    return f"model.{top[name]}" if name in top else f"model.layers.{name}"


def write(folder, family, shards=1, **changes):
    """Write a released model to `folder`: config.json, and its weights in so many files."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIGS[family], **changes}))
    weights = weights_of(family)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return weights
    names, where = sorted(weights), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}
        save_file(part, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


def rms(x, weight, eps):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def rotate(x, theta, size):
    """Rotate the first `size` values of each head by position; x is [B, heads, L, head]."""
    inverse = 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
    angles = torch.outer(torch.arange(x.shape[2]).float(), inverse)
    cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
    turned, rest = x[..., :size], x[..., size:]
    half = torch.cat([-turned[..., size // 2 :], turned[..., : size // 2]], -1)
    return torch.cat([turned * cos + half * sin, rest], -1)


def swiglu(x, get, stem):
    gate, up, down = (get(f"{stem}.{name}_proj.weight") for name in ("gate", "up", "down"))
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def mixture(family, x, get, stem):
    """Apply each token's experts, one token at a time."""
    rows = x.flatten(0, 1)
    scores = linear(rows, get(f"{stem}.gate.weight"))
    answer = torch.zeros_like(rows)
    for t, row in enumerate(rows):
        if family == "llada_moe":
            share, chosen = scores[t].softmax(0).topk(CHOSEN)
        else:
            own = scores[t].sigmoid()
            groups = (own + get(f"{stem}.gate.expert_bias")).view(4, -1)
            best = groups.topk(2, -1)[0].sum(-1).topk(2)[1]
            allowed = torch.full_like(groups, float("-inf"))
            allowed[best] = groups[best]
            chosen = allowed.flatten().topk(CHOSEN)[1]
            share = 2.5 * own[chosen] / own[chosen].sum()
        for weight, e in zip(share, chosen.tolist(), strict=True):
            answer[t] += weight * swiglu(row, get, f"{stem}.experts.{e}")
    answer = answer.view_as(x)
    return answer + swiglu(x, get, f"{stem}.shared_experts") if family == "llada2" else answer


def reference(family, weights, tokens, eager=False):
    """Return logits [B, L, V] of unpadded `tokens` [B, L]."""
    config = CONFIGS[family]

    def get(name):
        return weights.get(released_name(family, name))

    block = BLOCKS.get(family)
    length = tokens.shape[1]
    seen = None
    if block:
        of = torch.arange(length) // block
        seen = of[:, None] >= of[None, :]
    turned = HEAD // 2 if family == "llada2" else HEAD
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    x = get("embed")[tokens]
    for i in range(LAYERS):
        stem = f"{i}.self_attn"
        y = rms(x, get(f"{i}.input_layernorm.weight"), eps)
        if family == "llada2":
            parts = linear(y, get(f"{stem}.query_key_value.weight")).split([64, 32, 32], -1)
        else:
            names = [f"{stem}.{k}_proj" for k in "qkv"]
            parts = [linear(y, get(f"{name}.weight"), get(f"{name}.bias")) for name in names]
        q, k, v = (part.unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in parts)
        if get(f"{stem}.q_norm.weight") is not None:
            q, k = (rms(z, get(f"{stem}.{n}_norm.weight"), eps) for z, n in ((q, "q"), (k, "k")))
        q, k = rotate(q, theta, turned), rotate(k, theta, turned)
        k, v = (z.repeat_interleave(HEADS // KV, 1) for z in (k, v))
        if eager:
            score = q @ k.transpose(2, 3) * HEAD**-0.5
            if seen is not None:
                score = score.masked_fill(~seen, torch.finfo(torch.float32).min)
            mixed = score.softmax(-1) @ v
        else:
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + linear(mixed.transpose(1, 2).flatten(2), get(f"{stem}.o_proj.weight"))
        y = rms(x, get(f"{i}.post_attention_layernorm.weight"), eps)
        sparse = get(f"{i}.mlp.gate.weight") is not None
        x = x + (mixture(family, y, get, f"{i}.mlp") if sparse else swiglu(y, get, f"{i}.mlp"))
    return linear(rms(x, get("norm"), eps), get("lm_head"))


def tokens_of(length=21):
    tokens = torch.randint(3, 90, (2, length), generator=torch.Generator().manual_seed(3))
    tokens[:, length // 2 :] = MASK
    return tokens
