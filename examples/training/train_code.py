"""Trains a masked diffusion model of Python source code, on byte-pair tokens.

    pip install --no-deps --target code_packages -r examples/training/code_packages.txt
    python examples/training/train_code.py --packages code_packages --out code

With ``--device cuda --compile`` it takes minutes. The same command goes on after an interruption.
The data are those of ``code_data.py``; about 5 % of the files, chosen by a hash of their relative
path, are held out. The tokens are kept in ``--data``, which can be made on one machine
(``--steps 0``) and trained on another. At the end the script measures the likelihood bound on the
held-out files of the standard library.
"""

import argparse
import json
import math
import platform
import shutil
from pathlib import Path

import torch
from code_data import held_out_library, training_files
from mdm_training import common_parser, nll_bound, parameter_count, train
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import EsmConfig, EsmForMaskedLM, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[MASK]", "[BOS]", "[EOS]"]
MASK = 1
LENGTH = 256
VOCABULARY = 4096


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
    return torch.tensor(stream, dtype=torch.int16)


def prepare(folder: Path, packages: Path | None, most: int | None) -> None:
    """Write the tokenizer, the tokens and the number of held-out bytes into a folder."""
    training = list(training_files(packages, most))
    held_out = list(held_out_library().values())
    print(
        f"CPython {platform.python_version()}: {len(training)} files, "
        f"{len(held_out)} of the standard library held out",
        flush=True,
    )
    tokenizer = build_tokenizer(training)
    tokens = {
        "training": token_stream(tokenizer, training),
        "held_out": token_stream(tokenizer, held_out),
        # bytes of text behind the tokens; [BOS] and [EOS] cost likelihood but are no bytes
        "held_out_bytes": torch.tensor([sum(len(text.encode()) for text in held_out)]),
    }
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    tokenizer.save_pretrained(aside)
    save_file(tokens, aside / "tokens.safetensors")
    aside.rename(folder)


def evaluate(
    model: EsmForMaskedLM, stream: Tensor, size: int, draws: int, seed: int
) -> dict[str, float]:
    """Return the likelihood bound per token and per byte of a stream that holds `size` bytes.

    It is measured on consecutive windows.
    """
    windows = stream[: len(stream) // LENGTH * LENGTH].view(-1, LENGTH)
    mean, error = nll_bound(model, windows, MASK, draws, seed)
    bytes_per_token = size / len(stream)
    bits = 1 / bytes_per_token / math.log(2)
    return {
        "windows": len(windows),
        "draws": draws,
        "bytes_per_token": bytes_per_token,
        "nll_nats_per_token": mean,
        "nll_standard_error": error,
        "bits_per_byte": mean * bits,
        "bits_per_byte_standard_error": error * bits,
    }


def main() -> None:
    parser = common_parser(
        __doc__,
        steps=6000,
        batch=1024,
        lr=2e-3,
        hidden=256,
        layers=6,
        heads=4,
        ffn=1024,
        warmup=200,
        decay=0.3,
        spans=0.5,
    )
    parser.add_argument("--packages", type=Path, help="folder that pip filled")
    parser.add_argument("--data", type=Path, help="folder of the tokens (default: OUT.data)")
    parser.add_argument("--start", type=Path, help="folder with the weights to begin with")
    parser.add_argument("--eval-draws", type=int, default=4)
    parser.add_argument(
        "--eval-only", action="store_true", help="measure the model already in --out"
    )
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    data = args.data or args.out.with_name(args.out.name + ".data")
    if not data.exists():
        prepare(data, args.packages, 20 if args.smoke else None)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(data)
    tokens = load_file(data / "tokens.safetensors")
    if args.smoke:
        args.steps, args.batch, args.hidden, args.heads = 3, 4, 32, 2
        args.layers, args.ffn = 1, 64
    if args.eval_only:
        model = EsmForMaskedLM.from_pretrained(args.out, dtype=torch.float32)
    else:
        model = build_model(args)
        if args.start:
            model = EsmForMaskedLM.from_pretrained(args.start, dtype=torch.float32)
        windows = tokens["training"].unfold(0, LENGTH, 1)
        print(f"{parameter_count(model)} parameters, {len(tokens['training'])} tokens", flush=True)
        generator = torch.Generator().manual_seed(args.seed)

        def next_batch() -> Tensor:
            return windows[torch.randint(len(windows), (args.batch,), generator=generator)].long()

        model = train(model, args, MASK, next_batch, tokenizer, (generator,))
    held_out = tokens["held_out"].long()
    if args.smoke:
        held_out = held_out[: 4 * LENGTH]
    size = int(tokens["held_out_bytes"]) * len(held_out) // len(tokens["held_out"])
    found = evaluate(model.cpu().eval(), held_out, size, args.eval_draws, args.seed)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
