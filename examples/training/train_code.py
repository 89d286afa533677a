"""Trains a masked diffusion model of Python source code, on byte-pair tokens.

    nice -n 19 python examples/training/train_code.py --out code

The same command goes on after an interruption. The data are those of ``code_data.py``; about 5 % of
the files, chosen by a hash of their relative path, are held out. At the end it measures the
likelihood bound on the held-out files of the standard library. The model that ships today is older:
its card says how it was made.
"""

import argparse
import json
import math
import platform

import torch
from code_data import held_out_library, training_files
from mdm_training import common_parser, nll_bound, parameter_count, train
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import EsmConfig, EsmForMaskedLM, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[MASK]", "[BOS]", "[EOS]"]
MASK = 1
LENGTH = 128
VOCABULARY = 2048


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Learn a byte-pair vocabulary; white space before a word is part of its token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        mask_token="[MASK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        model_max_length=LENGTH,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_model(args: argparse.Namespace) -> EsmForMaskedLM:
    """A pre-norm transformer with rotary positions, tied embeddings and no dropout."""
    config = EsmConfig(
        vocab_size=VOCABULARY,
        mask_token_id=MASK,
        pad_token_id=SPECIAL.index("[PAD]"),
        bos_token_id=SPECIAL.index("[BOS]"),
        eos_token_id=SPECIAL.index("[EOS]"),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=args.ffn,
        max_position_embeddings=LENGTH,
        position_embedding_type="rotary",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        token_dropout=False,
        emb_layer_norm_before=False,
        tie_word_embeddings=True,
    )
    return EsmForMaskedLM(config)


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Concatenate all files, each between [BOS] and [EOS]."""
    core = tokenizer.backend_tokenizer
    stream: list[int] = []
    for encoding in core.encode_batch(texts, add_special_tokens=False):
        stream += [tokenizer.bos_token_id, *encoding.ids, tokenizer.eos_token_id]
    return torch.tensor(stream)


def evaluate(
    model: EsmForMaskedLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    draws: int,
    seed: int,
) -> dict[str, float]:
    """Return the likelihood bound per token and per byte.

    It is measured on the consecutive windows of the held-out files.
    """
    stream = token_stream(tokenizer, texts)
    windows = stream[: len(stream) // LENGTH * LENGTH].view(-1, LENGTH)
    mean, error = nll_bound(model, windows, MASK, draws, seed)
    # bytes of text behind the tokens; [BOS] and [EOS] cost likelihood but are no bytes
    size = sum(len(text.encode()) for text in texts) * windows.numel() / len(stream)
    bits = windows.numel() / size / math.log(2)
    return {
        "files": len(texts),
        "windows": len(windows),
        "draws": draws,
        "bytes_per_token": size / windows.numel(),
        "nll_nats_per_token": mean,
        "nll_standard_error": error,
        "bits_per_byte": mean * bits,
        "bits_per_byte_standard_error": error * bits,
    }


def main() -> None:
    parser = common_parser(
        __doc__,
        steps=6000,
        batch=16,
        lr=2e-3,
        hidden=256,
        layers=4,
        heads=4,
        ffn=1024,
        warmup=100,
        decay=0.3,
        spans=0.3,
    )
    parser.add_argument("--eval-draws", type=int, default=1)
    parser.add_argument(
        "--eval-only", action="store_true", help="measure the model already in --out"
    )
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    held_out = list(held_out_library().values())
    if args.eval_only:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
        model = EsmForMaskedLM.from_pretrained(args.out, dtype=torch.float32)
    else:
        training = list(training_files(20 if args.smoke else None).values())
        if args.smoke:
            args.steps, args.batch, args.hidden, args.heads = 3, 4, 32, 2
            args.layers, args.ffn = 1, 64
            held_out = held_out[:2]
        print(
            f"CPython {platform.python_version()}: {len(training)} files, "
            f"{len(held_out)} of the standard library held out",
            flush=True,
        )
        tokenizer = build_tokenizer(training)
        stream = token_stream(tokenizer, training)
        model = build_model(args)
        print(f"{parameter_count(model)} parameters, {len(stream)} training tokens", flush=True)
        windows = stream.unfold(0, LENGTH, 1)
        generator = torch.Generator().manual_seed(args.seed)

        def next_batch() -> Tensor:
            return windows[torch.randint(len(windows), (args.batch,), generator=generator)]

        model = train(model, args, MASK, next_batch, tokenizer, (generator,))
    print(
        json.dumps(
            evaluate(model.eval(), tokenizer, held_out, args.eval_draws, args.seed), indent=2
        )
    )


if __name__ == "__main__":
    main()
