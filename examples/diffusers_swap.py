"""Swaps the schedule in diffusers' own pipelines, and shows ours for other masked diffusion models.

    python examples/diffusers_swap.py --output swapped

Every model here is tiny, random and built on the spot, so the script shows the code to write and
not results to expect. With a trained model only the lines that build it change. save_pretrained
writes the folders that are left in --output.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import (
    AmusedPipeline,
    AmusedScheduler,
    BlockRefinementScheduler,
    LLaDA2Pipeline,
    UVit2DModel,
    VQModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
)

import mdm_schedules as mdm

CODES = 24  # size of the image codebook; the mask token follows its codes


def tiny_amused(folder: Path) -> AmusedPipeline:
    """Build an aMUSEd pipeline with real but tiny parts and 8 x 8 image tokens.

    The parts are its VQ model, transformer, text encoder and tokenizer.
    """
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({word: number for number, word in enumerate(words)})
    )
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=12)
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    transformer = UVit2DModel(
        hidden_size=16,
        cond_embed_dim=16,
        micro_cond_encode_dim=4,
        micro_cond_embed_dim=20,
        encoder_hidden_size=16,
        vocab_size=CODES + 1,
        codebook_size=CODES,
        in_channels=16,
        block_out_channels=16,
        num_res_blocks=1,
        block_num_heads=2,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        sample_size=8,
    )
    vqvae = VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        layers_per_block=1,
        latent_channels=8,
        num_vq_embeddings=CODES,
        norm_num_groups=4,
        sample_size=16,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    return AmusedPipeline(
        vqvae.eval(),
        tokenizer,
        CLIPTextModelWithProjection(text).eval(),
        transformer.eval(),
        AmusedScheduler(mask_token_id=CODES),
    )


def tiny_text_model() -> tuple[BertForMaskedLM, PreTrainedTokenizerFast]:
    """Build a bidirectional transformer of masked tokens and its tokenizer of 46 words."""
    torch.manual_seed(0)
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "eos_token": "[EOS]",
    }
    words = [
        *special.values(),
        *["the", "a", "one", "some", "this", "that"],
        *(f"word{i}" for i in range(36)),
    ]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=96,
        initializer_range=0.3,
        pad_token_id=0,
    )
    model = BertForMaskedLM(config).eval()
    # Like a trained model, never predict the mask token: diffusers would return predicted masks in
    # its answer.
    model.cls.predictions.decoder.bias.data[words.index("[MASK]")] = -1e4
    return model, PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def images(folder: Path) -> None:
    pipe = tiny_amused(folder / "clip")
    pipe.set_progress_bar_config(disable=True)

    def tokens() -> torch.Tensor:
        out = pipe(
            "a cat",
            num_inference_steps=6,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        )
        return out.images

    for schedule in ("cosine", "linear"):  # those that AmusedScheduler has, too
        pipe.scheduler = AmusedScheduler(mask_token_id=CODES, masking_schedule=schedule)
        theirs = tokens()
        # the only change
        pipe.scheduler = mdm.MaskedDiffusionScheduler.from_config(
            pipe.scheduler.config, schedule=schedule
        )
        same = int((tokens() == theirs).sum())
        print(
            f"AmusedPipeline, {schedule} for AmusedScheduler's {schedule}: {same} of "
            f"{theirs.numel()} tokens the same"
        )
    pipe.scheduler = mdm.MaskedDiffusionScheduler.from_config(
        pipe.scheduler.config, schedule="beta(a=0.9, b=0.3)"
    )
    plan = pipe.scheduler.schedule.plan(theirs.numel(), 6).tolist()
    print(f"AmusedPipeline, beta(a=0.9, b=0.3): {tokens().numel()} tokens, {plan} in 6 passes")
    pipe.save_pretrained(folder / "amused")
    loaded = AmusedPipeline.from_pretrained(folder / "amused")
    print(
        f"AmusedPipeline, saved and loaded: {type(loaded.scheduler).__name__}, "
        f"{loaded.scheduler.schedule!r}"
    )


def text(folder: Path) -> None:
    model, tokenizer = tiny_text_model()
    pipe = LLaDA2Pipeline(
        model=model, scheduler=BlockRefinementScheduler(block_length=8), tokenizer=tokenizer
    )
    pipe.set_progress_bar_config(disable=True)

    def tokens() -> torch.Tensor:
        # a threshold above 1 and no editing leave everything to the schedule
        settings = {
            "gen_length": 16,
            "num_inference_steps": 4,
            "threshold": 1.1,
            "editing_threshold": None,
        }
        return pipe("the word1", **settings, eos_early_stop=False).sequences

    theirs = tokens()
    pipe.scheduler = mdm.BlockMaskedDiffusionScheduler.from_config(
        pipe.scheduler.config, schedule="even"
    )
    same = int((tokens() == theirs).sum())
    print(
        f"LLaDA2Pipeline, even for BlockRefinementScheduler: {same} of {theirs.numel()} tokens the "
        "same"
    )
    pipe.scheduler = mdm.BlockMaskedDiffusionScheduler.from_config(
        pipe.scheduler.config, schedule="beta(a=0.9, b=0.3)"
    )
    plan = pipe.scheduler.schedule.plan(8, 4).tolist()
    print(f"LLaDA2Pipeline, beta(a=0.9, b=0.3): {tokens().numel()} tokens, {plan} a block")

    # any other masked diffusion model: a folder or Hub id of transformers
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    ours = mdm.MaskedDiffusionPipeline.from_pretrained(
        folder / "model", schedule="beta(a=0.9, b=0.3)"
    )
    ours.set_progress_bar_config(disable=True)
    out = ours(["the word1", "a word2 word3"], max_new_tokens=12, num_inference_steps=4, seed=0)
    print(f"MaskedDiffusionPipeline: {out.nfe} passes for {out.texts}")
    ours.save_pretrained(folder / "pipeline")
    again = mdm.MaskedDiffusionPipeline.from_pretrained(folder / "pipeline")
    print(f"MaskedDiffusionPipeline, saved and loaded: {again.scheduler.schedule!r}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("swapped"))
    args = parser.parse_args()
    images(args.output)
    text(args.output)


if __name__ == "__main__":
    main()
