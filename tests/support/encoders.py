"""Encoders of transformers with random weights, small enough to be built in every test."""

import pytest
import torch
import transformers

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
V, MASK, PAD = 50, 4, 0

# those that transformers 4.57 has not
NEWER = {"esmc": "Esmc", "eurobert": "EuroBert"}


def small_bert(cls=transformers.BertForMaskedLM, **config):
    """Return a BERT, the same in every call, with weights so wide that tokens depend on others."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "initializer_range": 0.8,
    }
    return cls(transformers.BertConfig(**{**sizes, **config})).eval()


def build(kind):
    torch.manual_seed(0)
    common = {
        "vocab_size": V,
        "pad_token_id": PAD,
        "max_position_embeddings": 40,
        "initializer_range": 0.2,
    }
    if kind == "bert":
        model = small_bert(**SIZES, **common)
    elif kind == "roberta":
        model = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SIZES, **common))
    elif kind == "esm":
        config = transformers.EsmConfig(
            **SIZES, **common, mask_token_id=MASK, position_embedding_type="rotary"
        )
        config.token_dropout = False
        model = transformers.EsmForMaskedLM(config)
    elif kind == "modernbert":
        config = transformers.ModernBertConfig(**SIZES, **common, reference_compile=False)
        model = transformers.ModernBertForMaskedLM(config)
    elif kind in NEWER:
        config = getattr(transformers, f"{NEWER[kind]}Config", None)
        if config is None:
            pytest.skip(f"transformers {transformers.__version__} has no {NEWER[kind]}")
        config = config(**SIZES, **common, mask_token_id=MASK, bos_token_id=1, eos_token_id=2)
        model = getattr(transformers, f"{NEWER[kind]}ForMaskedLM")(config)
    else:
        config = transformers.DistilBertConfig(
            dim=32, n_layers=2, n_heads=2, hidden_dim=48, **common
        )
        model = transformers.DistilBertForMaskedLM(config)
    return model.eval()
