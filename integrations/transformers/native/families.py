"""The released families, one table each.

A new family is one more table, and a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.integrations.transformers.native.family import COMMON, Family

NOT = (None, False)

LLADA = Family(
    name="LLaDA",
    model_types=("llada", "mmada"),
    architectures=("LLaDAModelLM", "MMadaModelLM"),
    native="mdm_llama",
    keys={
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": lambda c: c["n_kv_heads"] or c["n_heads"],
        "intermediate_size": lambda c: c["mlp_hidden_size"] or c["mlp_ratio"] * c["d_model"],
        "vocab_size": lambda c: c["embedding_size"] or c["vocab_size"],
        "max_position_embeddings": "max_sequence_length",
        "rms_norm_eps": "rms_norm_eps",
        "rope_theta": "rope_theta",
        "tie_word_embeddings": "weight_tying",
        "attention_bias": "include_qkv_bias",
        "attention_dropout": "attention_dropout",
        "initializer_range": "init_std",
    },
    defaults={
        "n_kv_heads": None,
        "mlp_hidden_size": None,
        "mlp_ratio": 4,
        "embedding_size": 50304,
        "max_sequence_length": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "weight_tying": True,
        "include_qkv_bias": False,
        "activation_type": "swiglu",
        "block_type": "sequential",
        "layer_norm_type": "default",
        "layer_norm_with_affine": True,
        "rope": False,
        "block_group_size": 1,
    },
    allowed={
        "block_type": ("llama",),
        "layer_norm_type": ("rms",),
        "activation_type": ("silu",),
        "rope": (True,),
        "layer_norm_with_affine": (True,),
        "block_group_size": (1,),
        "alibi": NOT,
        "attention_layer_norm": NOT,
        "multi_query_attention": NOT,
        "input_emb_norm": NOT,
        "scale_logits": NOT,
        "include_bias": NOT,
        "bias_for_layer_norm": NOT,
        "clip_qkv": (None,),
        "rope_scaling": (None,),
    },
    fixed={"attention_out_bias": False, "hidden_act": "silu", "embed_padding": False},
    names=(
        ("model.transformer.wte", "model.embed_tokens"),
        ("model.transformer.ln_f", "model.norm"),
        ("model.transformer.ff_out", "lm_head"),
        *(
            (f"model.transformer.blocks.{{}}.{released}", f"model.layers.{{}}.{native}")
            for released, native in (
                ("attn_norm", "input_layernorm"),
                ("ff_norm", "post_attention_layernorm"),
                ("q_proj", "self_attn.q_proj"),
                ("k_proj", "self_attn.k_proj"),
                ("v_proj", "self_attn.v_proj"),
                ("attn_out", "self_attn.o_proj"),
                ("ff_proj", "mlp.gate_proj"),
                ("up_proj", "mlp.up_proj"),
                ("ff_out", "mlp.down_proj"),
            )
        ),
    ),
    mask_token_id=126336,
    mask_vocabularies=(126464, 134656),
    unset_masks=(50256,),
)

LLADA_MOE = Family(
    name="LLaDA-MoE",
    model_types=("llada", "lladamoe", "llada_moe"),
    architectures=("LLaDAMoEModelLM",),
    native="mdm_qwen3_moe",
    keys={
        **{key: key for key in COMMON},
        "head_dim": lambda c: c["hidden_size"] // c["num_attention_heads"],
        "num_key_value_heads": lambda c: c.get("num_key_value_heads") or c["num_attention_heads"],
        # a model without dense layers may leave their width out, or at -1
        "intermediate_size": lambda c: max(c.get("dense_intermediate_size") or 0, 1),
        "moe_intermediate_size": "expert_intermediate_size",
        "num_experts": "num_experts",
        "num_experts_per_tok": "num_experts_per_tok",
        "mlp_only_layers": lambda c: [i for i, moe in enumerate(c["moe_layer_freq"]) if not moe],
    },
    defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "moe_layer_freq": ()},
    allowed={
        "qk_layernorm": (True,),
        "clip_qkv": (None,),
        "shared_expert_intermediate_size": (None,),
        "partial_rotary_factor": (1, None),
        "moe_router_enable_expert_bias": NOT,
        "moe_router_score_function": ("softmax", None),
        "norm_topk_prob": NOT,
        "routed_scaling_factor": (1, None),
    },
    fixed={"norm_topk_prob": False, "decoder_sparse_step": 1},
    mask_token_id=156895,
    mask_vocabularies=(157184,),
)

LLADA2 = Family(
    name="LLaDA2",
    model_types=("llada2_moe", "llada21_moe"),
    architectures=("LLaDA2MoeModelLM",),
    native="mdm_glm4_moe",
    keys={
        **{key: key for key in COMMON},
        "head_dim": lambda c: c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"],
        "attention_bias": "use_qkv_bias",
        "attention_out_bias": "use_bias",
        "partial_rotary_factor": "partial_rotary_factor",
        "moe_intermediate_size": "moe_intermediate_size",
        "n_routed_experts": "num_experts",
        "num_experts_per_tok": "num_experts_per_tok",
        "norm_topk_prob": lambda c: c["num_experts_per_tok"] > 1,
        "n_shared_experts": "num_shared_experts",
        "n_group": "n_group",
        "topk_group": "topk_group",
        "routed_scaling_factor": "routed_scaling_factor",
        "first_k_dense_replace": "first_k_dense_replace",
        "block_length": lambda c: c.get("block_length") or c.get("block_size") or 32,
    },
    defaults={
        "use_qkv_bias": False,
        "use_bias": True,
        "use_qk_norm": True,
        "rms_norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
        "first_k_dense_replace": 0,
        "n_group": 8,
        "topk_group": 4,
        "num_shared_experts": 0,
        "routed_scaling_factor": 2.5,
        "max_position_embeddings": 16384,
    },
    allowed={
        "use_qk_norm": (True,),
        "use_sliding_window": NOT,
        "norm_head": NOT,
        "score_function": ("sigmoid", None),
        "scoring_func": ("sigmoid", None),
        "norm_topk_prob": (True, None),
        "router_dtype": ("fp32", None),
        "moe_router_enable_expert_bias": (True, None),
    },
    fixed={"use_qk_norm": True, "num_nextn_predict_layers": 0},
    names=(
        ("model.word_embeddings", "model.embed_tokens"),
        ("model.layers.{}.attention.dense", "model.layers.{}.self_attn.o_proj"),
        ("model.layers.{}.attention.query_layernorm", "model.layers.{}.self_attn.q_norm"),
        ("model.layers.{}.attention.key_layernorm", "model.layers.{}.self_attn.k_norm"),
        (
            "model.layers.{}.mlp.gate.expert_bias",
            "model.layers.{}.mlp.gate.e_score_correction_bias",
        ),
    ),
    fused=(
        "model.layers.{}.attention.query_key_value",
        tuple(f"model.layers.{{}}.self_attn.{x}_proj" for x in "qkv"),
    ),
    mask_token_id=156895,
    mask_vocabularies=(157184,),
)

DREAM = Family(
    name="Dream",
    model_types=("Dream", "dream"),
    architectures=("DreamModel",),
    native="mdm_qwen2",
    # its code has biases whatever attention_bias says
    keys={key: key for key in COMMON if key not in ("attention_bias", "head_dim")},
    defaults={
        "mask_token_id": 151666,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 32768,
        "hidden_act": "silu",
        "num_key_value_heads": 32,
        "num_attention_heads": 32,
    },
    allowed={
        "use_sliding_window": NOT,
        "use_mrope": NOT,
        "block_size": (None,),
    },
    fixed={"logits_shift": 1, "use_sliding_window": False},
    mask_token_id=151666,
    mask_vocabularies=(152064,),
)

_BLOCKS = ("bd_size", "block_length", "block_size")


def _block_length(config: Mapping[str, Any]) -> int | None:
    return next((config[key] for key in _BLOCKS if config.get(key)), None)


SDAR = Family(
    name="SDAR",
    model_types=("sdar",),
    architectures=("SDARForCausalLM",),
    native="mdm_qwen3",
    keys={**{key: key for key in COMMON}, "block_length": _block_length},
    defaults={"head_dim": 128, "rms_norm_eps": 1e-6, "block_size": 4},
    allowed={"use_sliding_window": NOT},
    fixed={"use_sliding_window": False},
    mask_token_id=151669,
    mask_vocabularies=(151936,),
)

SDAR_MOE = Family(
    name="SDAR-MoE",
    model_types=("sdar_moe",),
    architectures=("SDARMoeForCausalLM",),
    native="mdm_qwen3_moe",
    keys={
        **SDAR.keys,
        **{
            key: key
            for key in (
                "moe_intermediate_size",
                "num_experts",
                "num_experts_per_tok",
                "norm_topk_prob",
                "mlp_only_layers",
                "decoder_sparse_step",
            )
        },
    },
    defaults={**SDAR.defaults, "norm_topk_prob": False, "decoder_sparse_step": 1},
    allowed=SDAR.allowed,
    fixed=SDAR.fixed,
    mask_token_id=151669,
    mask_vocabularies=(151936,),
)

FAST_DLLM = Family(
    name="Fast-dLLM v2",
    model_types=("Fast_dLLM_Qwen",),
    architectures=("Fast_dLLM_QwenForCausalLM",),
    native="mdm_qwen2",
    keys={
        **{key: key for key in COMMON if key not in ("attention_bias", "head_dim")},
        "block_length": _block_length,
    },
    defaults={"rms_norm_eps": 1e-6, "bd_size": 32},
    allowed={"use_sliding_window": NOT, "use_relay": NOT},
    fixed={"logits_shift": 1, "use_sliding_window": False},
    mask_token_id=151665,
    mask_vocabularies=(151936, 152064),
)


def _a2d(base: str, native: str, **more: str) -> Family:
    """dLLM's models made from autoregressive ones: the base's names, and its values."""
    return Family(
        name=f"dLLM a2d-{base}",
        model_types=(f"a2d-{base}",),
        architectures=(f"A2D{base.capitalize()}LMHeadModel",),
        native=native,
        keys={**{key: key for key in COMMON}, "block_length": _block_length, **more},
        allowed={"use_sliding_window": NOT},
        fixed={} if base == "llama" else {"use_sliding_window": False},
    )


FAMILIES: tuple[Family, ...] = (
    LLADA,
    LLADA_MOE,
    LLADA2,
    DREAM,
    SDAR,
    SDAR_MOE,
    FAST_DLLM,
    _a2d("llama", "mdm_llama", mlp_bias="mlp_bias"),
    _a2d("qwen2", "mdm_qwen2"),
    _a2d("qwen3", "mdm_qwen3"),
)


def family_of(config: Mapping[str, Any]) -> Family | None:
    """The family of a config.json; None if no table has it."""
    return next((family for family in FAMILIES if family.fits(config)), None)


def explain_unknown(config: Mapping[str, Any]) -> InvalidValueError:
    """The error for a model that no table has."""
    known = ", ".join(family.name for family in FAMILIES)
    return InvalidValueError(
        f"no native model is known for model_type={shown(config.get('model_type'))}, "
        f"architectures={shown(config.get('architectures'))}; known: {known}; load it with its own "
        "code instead: trust_remote_code=True"
    )
