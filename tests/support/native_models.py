"""Tiny native models with random weights, one of each class, and a tokenizer of their size."""

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mdm_schedules as mdm
from mdm_schedules.integrations.transformers.native import NATIVE

V, MASK, PAD, EOS = 48, 47, 1, 2
SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
    "mask_token_id": MASK,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": 3,
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
#: model type -> config values beside SIZES
KINDS = {
    "mdm_llama": {},
    "mdm_qwen2": {"logits_shift": 1},
    "mdm_qwen3": {"block_length": 4},
    "mdm_qwen3_moe": {**EXPERTS, "num_experts": 4},
    "mdm_glm4_moe": {
        **EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 2, "topk_group": 1,
        "first_k_dense_replace": 1, "block_length": 8,
    },
}  # fmt: skip


def build(kind, **changes):
    """Return a model of the class for model type `kind`."""
    config_class, model_class = NATIVE[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**{**SIZES, **KINDS[kind], **changes})).eval()
    model.config.architectures = [model_class.__name__]
    return model


def tokenizer(size=V):
    """Return a tokenizer of words w0, w1, ..., with the usual special tokens; the mask is last."""
    words = {f"w{i}": i for i in range(size)}
    for text, i in {"<pad>": PAD, "<eos>": EOS, "<bos>": 3, "[MASK]": size - 1}.items():
        words = {text if j == i else word: j for word, j in words.items()}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]", **special)


def save(folder, kind):
    """Save the model and its tokenizer to `folder`."""
    build(kind).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def job(folder, prompts, **options):
    """Run in each process of a job: the records of `generate_distributed` on the model saved."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    model = mdm.AutoModelForMaskedDiffusion.from_pretrained(folder)
    return mdm.generate_distributed(
        model, prompts, tokenizer=tokenizer(), batch_size=2, timeout=20, **options
    ).records
