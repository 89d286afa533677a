"""A small random DiffusionGemma of transformers' own classes."""

import pytest
import torch
import transformers

V, CANVAS = 64, 16


def build(seed=0, canvas=CANVAS):
    if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
        pytest.skip(f"transformers {transformers.__version__} has no DiffusionGemma")
    from transformers import DiffusionGemmaConfig, Gemma4VisionConfig
    from transformers.models.diffusion_gemma import DiffusionGemmaTextConfig

    text = DiffusionGemmaTextConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        global_head_dim=16,
        num_experts=2,
        top_k_experts=1,
        moe_intermediate_size=16,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
    )
    torch.manual_seed(seed)
    config = DiffusionGemmaConfig(
        text_config=text, vision_config=vision, canvas_length=canvas, initializer_range=0.4,
        image_token_id=60, boi_token_id=61, eoi_token_id=62,
    )  # fmt: skip
    return transformers.DiffusionGemmaForBlockDiffusion(config).eval()
