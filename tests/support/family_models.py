"""A small random model and a tokenizer for each model family, and what the matrix says of it."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import families
import native_models
import released
import torch
import transformers

import mdm_schedules as mdm

COLUMNS = ("generate", "cache", "distributed", "pipeline", "lm-eval", "tune")
FROM_4, OWN_CODE = "4.57.1 and later", "4.57"


@dataclass
class Family:
    """A row of the matrix.

    Attributes:
        adapter: what calls the model.
        versions: of transformers, that load a released model.
        build: returns the model; None where the installed transformers lacks its class.
        vocabulary: tokens, the last of which is the mask.
    """

    adapter: str
    versions: str
    build: Callable[[], object]
    vocabulary: int

    def tokenizer(self):
        return native_models.tokenizer(self.vocabulary)


V = native_models.V
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": V,
    "pad_token_id": 1,
    "bos_token_id": 3,
    "eos_token_id": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}


def encoder(name, versions=FROM_4, **config):
    def build():
        if not hasattr(transformers, f"{name}ForMaskedLM"):
            return None
        torch.manual_seed(0)
        filled = getattr(transformers, f"{name}Config")(**{**ENCODER, **config})
        filled.mask_token_id = V - 1
        model = getattr(transformers, f"{name}ForMaskedLM")(filled).eval()
        filled.architectures = [f"{name}ForMaskedLM"]
        return model

    return Family("masked_lm", versions, build, V)


def native(kind, **changes):
    def build():
        with tempfile.TemporaryDirectory() as folder:
            released.write(Path(folder), kind, **changes)
            native_models.tokenizer(released.V).save_pretrained(folder)
            return mdm.AutoModelForMaskedDiffusion.from_pretrained(folder).eval()

    return Family("native", FROM_4, build, released.V)


def own_code(kind, versions=OWN_CODE):
    return Family(kind, versions, lambda: families.FAMILIES[kind]().eval(), families.V)


FAMILIES = {
    "BERT": encoder("Bert"),
    "RoBERTa": encoder("Roberta", max_position_embeddings=98),
    "DistilBERT": encoder("DistilBert", **DISTIL),
    "ModernBERT": encoder("ModernBert", reference_compile=False),
    "EuroBERT": encoder("EuroBert", "5.3 and later"),
    "ESM-2, DPLM": encoder("Esm", position_embedding_type="rotary", token_dropout=True),
    "ESM-C": encoder("Esmc", "5.16 and later"),
    "LLaDA": native("llada"),
    "MMaDA (text)": native("llada", model_type="mmada", architectures=["MMadaModelLM"]),
    "LLaDA-MoE": native("llada_moe"),
    "LLaDA2.0, 2.1": native("llada2"),
    "Dream": native("dream"),
    "SDAR": native("sdar"),
    "Fast-dLLM v2": native("fast_dllm"),
    "dLLM a2d, Llama": native("a2d-llama"),
    "dLLM a2d, Qwen3": native("a2d-qwen3"),
    "LLaDA, own code": own_code("llada"),
    "Dream, own code": own_code("dream"),
    "LLaDA2, own code": own_code("llada2"),
    "MDLM, own code": own_code("mdlm", "by its code"),
}
