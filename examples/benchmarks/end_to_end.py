"""Compares tokens per second of whole generations: our loop against LLaDA's on a real transformer.

    python examples/benchmarks/end_to_end.py --output end_to_end.json

The model is a ModernBERT with random weights, by default with hidden size 512, 8 layers and a
vocabulary of 126,464 (for a GPU: --hidden 4096 --layers 32 --dtype bfloat16 --device cuda). "Full
logits" is our loop with the head run on all positions; the remaining gain comes from running the
head on the wanted positions only. In a small model the head is most of the work; at 8B parameters
it is a few percent.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

sys.path.insert(0, str(Path(__file__).parent))
from reference_loops import llada_generate

import mdm_schedules as mdm


def build(args: argparse.Namespace) -> ModernBertForMaskedLM:
    """Build the model with random weights, except that it never predicts the mask token.

    LLaDA's loop would return a predicted mask as part of the answer.
    """
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=max(1, args.hidden // 64),
        intermediate_size=args.hidden * 3 // 2,
        max_position_embeddings=1024,
        reference_compile=False,
        pad_token_id=0,
    )
    config.mask_token_id = args.vocabulary - 1
    model = ModernBertForMaskedLM(config).to(args.device, getattr(torch, args.dtype)).eval()
    model.decoder.bias.data[-1] = -1e4
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, default=126_464)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one run each")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.vocabulary, args.hidden, args.layers, args.repeats = 512, 64, 2, 1
    model = build(args)
    name = (
        torch.cuda.get_device_name()
        if args.device == "cuda"
        else platform.processor() or platform.machine()
    )
    size = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads; "
        f"{size / 1e6:.1f}M parameters"
    )
    ids = torch.randint(0, args.vocabulary - 1, (args.batch, args.prompt), device=args.device)
    adapters = {"ours": None, "ours, full logits": "callable"}

    def run(loop: str, temperature: float) -> torch.Tensor:
        if loop == "LLaDA":
            with torch.no_grad():
                return llada_generate(
                    lambda tokens: model(tokens).logits,
                    ids,
                    mask_id=args.vocabulary - 1,
                    steps=args.steps,
                    new_tokens=args.new_tokens,
                    block_length=args.block,
                    temperature=temperature,
                )
        options = {
            "steps": args.steps,
            "max_new_tokens": args.new_tokens,
            "block_length": args.block,
            "seed": 0,
        }
        options |= {
            "temperature": temperature,
            "adapter": adapters[loop],
            "mask_token_id": args.vocabulary - 1,
        }
        return mdm.generate(model, ids, **options).sequences

    results = {}
    print(
        "| temperature | loop | seconds | tokens per second | against LLaDA "
        "|\n|---|---|---|---|---|"
    )
    for temperature in args.temperature:
        times: dict[str, list[float]] = {"LLaDA": [], "ours, full logits": [], "ours": []}
        written = {}
        for _ in range(args.repeats):
            for loop, values in times.items():
                start = time.perf_counter()
                written[loop] = run(loop, temperature).cpu()
                values.append(time.perf_counter() - start)
        if temperature == 0 and args.dtype == "float32":
            same = {
                loop: bool(torch.equal(tokens, written["LLaDA"]))
                for loop, tokens in written.items()
            }
            print(f"same tokens as LLaDA's loop: {same}")
        for loop, values in times.items():
            seconds = statistics.median(values)
            ratio = statistics.median(times["LLaDA"]) / seconds
            rate = args.batch * args.new_tokens / seconds
            results[f"{loop}, temperature {temperature:g}"] = {
                "seconds": seconds,
                "tokens_per_second": rate,
            }
            print(
                f"| {temperature:g} | {loop} | {seconds:.2f} | {rate:.1f} | {ratio:.2f}x |",
                flush=True,
            )
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
