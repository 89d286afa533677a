"""Compares the cost of answers with and without a key-value cache, on models with random weights.

    OMP_NUM_THREADS=1 python examples/benchmarks/cache.py --output cache.json

For each family, prompt, number of steps per block and batch, plain generation and each mode take
turns; the medians of their ratios are reported: CPU time on a CPU (other work on the machine
affects it less than wall time), wall time on a GPU. In brackets stands by how much the columns
that were computed became fewer. An answer has 128 tokens, in blocks of 32. Every cached run makes
the passes of the plain one; where the cache is exact and the weights float32, the script asserts
that the tokens are the same. For models that attend by blocks, diffusers' LLaDA2Pipeline runs the
same model on the same prompt, if it is installed, and so does dLLM's sampler for the others.

Families: blocks (as SDAR), llada2 (a mixture of experts, attention by blocks), fast_dllm (blocks,
shifted logits), llada, dream (shifted logits), modernbert. Sizes: small (8 layers of 512), base (12
of 768), 8b (the shapes of LLaDA-8B, and of a dense model by blocks), 8b/4 (a quarter of its
layers); vocabulary 32,768, with 8b that of the released models. With --compile the model is
compiled in every column.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import mdm_schedules as mdm
from mdm_schedules.integrations.transformers.native import modeling

BLOCK = 32
SIZES = {
    "tiny": {"layers": 2, "hidden": 32, "heads": 2, "wide": 64, "vocabulary": 200},
    "small": {"layers": 8, "hidden": 512, "heads": 8, "wide": 1408, "vocabulary": 32_768},
    "base": {"layers": 12, "hidden": 768, "heads": 12, "wide": 2048, "vocabulary": 32_768},
    "8b/4": {"layers": 8, "hidden": 4096, "heads": 32, "wide": 12_288, "vocabulary": 126_464},
    "8b": {"layers": 32, "hidden": 4096, "heads": 32, "wide": 12_288, "vocabulary": 126_464},
}
CLASSES = {
    "blocks": (modeling.MDMQwen3Config, modeling.MDMQwen3ForMaskedLM, {"block_length": BLOCK}),
    "fast_dllm": (
        modeling.MDMQwen2Config,
        modeling.MDMQwen2ForMaskedLM,
        {"block_length": BLOCK, "logits_shift": 1},
    ),
    "llada2": (modeling.MDMGlm4MoeConfig, modeling.MDMGlm4MoeForMaskedLM, {"block_length": BLOCK}),
    "llada": (modeling.MDMLlamaConfig, modeling.MDMLlamaForMaskedLM, {}),
    "dream": (modeling.MDMQwen2Config, modeling.MDMQwen2ForMaskedLM, {"logits_shift": 1}),
}
MODES: dict[str, dict[str, Any]] = {
    "exact": {"cache": "exact"},
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "dual, refresh every 4th block": {"cache": "dual", "cache_refresh_blocks": 4},
}


def build(family: str, size: str, device: str, dtype: torch.dtype) -> Any:
    """Return a model with random weights."""
    import transformers

    told = SIZES[size]
    shape = {
        "vocab_size": told["vocabulary"],
        "hidden_size": told["hidden"],
        "num_hidden_layers": told["layers"],
        "num_attention_heads": told["heads"],
        "intermediate_size": told["wide"],
        "max_position_embeddings": 8192,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
        "initializer_range": 0.02,
    }
    torch.manual_seed(0)
    with torch.device(device):
        if family == "modernbert":
            shape |= {"cls_token_id": None, "sep_token_id": None}
            config = transformers.ModernBertConfig(**shape, mask_token_id=1)
            model: Any = transformers.ModernBertForMaskedLM(config)
        else:
            config_class, model_class, more = CLASSES[family]
            shape |= {"num_key_value_heads": told["heads"], "tie_word_embeddings": False}
            shape["head_dim"] = told["hidden"] // told["heads"]
            if family == "llada2":
                shape |= {"n_routed_experts": 16, "num_experts_per_tok": 4, "n_shared_experts": 1}
                shape |= {"moe_intermediate_size": told["wide"] // 4, "n_group": 4, "topk_group": 2}
            model = model_class(config_class(**shape, **more, mask_token_id=1))
    return model.to(dtype).eval()


def clock(device: str) -> float:
    """Return CPU time on a CPU, wall time on a GPU whose work is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def pipeline(model: Any, ids: torch.Tensor, new: int, steps: int) -> torch.Tensor:
    """Return the answers of diffusers' LLaDA2Pipeline, without its threshold and its editing."""
    from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

    pipe = LLaDA2Pipeline(model=model, scheduler=BlockRefinementScheduler(block_length=BLOCK))
    pipe.set_progress_bar_config(disable=True)
    out = pipe(
        input_ids=ids,
        gen_length=new,
        block_length=BLOCK,
        num_inference_steps=steps,
        threshold=1.1,
        editing_threshold=None,
        eos_early_stop=False,
        mask_token_id=1,
        output_type="seq",
    )
    return torch.cat([ids, out.sequences], 1)


def dllm_sampler(model: Any, ids: torch.Tensor, new: int, steps: int) -> torch.Tensor:
    """Return the answers of dLLM's MDLM sampler."""
    from dllm.core.samplers.mdlm import MDLMSampler, MDLMSamplerConfig

    tokenizer = SimpleNamespace(mask_token_id=1, bos_token_id=0, eos_token_id=0)
    config = MDLMSamplerConfig(
        max_new_tokens=new, block_size=BLOCK, steps=steps * new // BLOCK, return_dict=False
    )
    return MDLMSampler(model=model, tokenizer=tokenizer).sample(list(ids), config)


def rivals(blocks: bool) -> dict[str, Callable[..., torch.Tensor]]:
    """Return the samplers of other libraries that are installed."""
    try:
        if blocks:
            from diffusers import LLaDA2Pipeline

            return {"diffusers LLaDA2Pipeline": pipeline} if LLaDA2Pipeline else {}
    except ImportError:
        return {}
    return {"dLLM": dllm_sampler} if importlib.util.find_spec("dllm") else {}


def compare(
    model: Any, prompt: int, steps: int, batch: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Return the medians of one setting: seconds of plain generation, and ratios to it."""
    generator = torch.Generator().manual_seed(prompt)
    vocabulary = model.config.vocab_size
    ids = torch.randint(2, vocabulary, (batch, prompt), generator=generator).to(args.device)
    blocks = getattr(model.config, "block_length", None) is not None
    modes = [name for name in MODES if (name == "exact") == blocks and name in args.modes]
    options = {
        "max_new_tokens": args.new,
        "steps": steps * args.new // BLOCK,
        "block_length": BLOCK,
        "mask_token_id": 1,
    }
    others = rivals(blocks) if args.rivals else {}
    ratios: dict[str, list[float]] = {name: [] for name in (*modes, *others)}
    computed: dict[str, float] = {}
    latest: dict[str, float] = {}
    plain = []
    for repeat in range(args.repeats + 1):
        start = clock(args.device)
        expected = mdm.generate(model, ids, cache="none", **options)
        seconds = clock(args.device) - start
        for name in modes:
            start = clock(args.device)
            out = mdm.generate(model, ids, **MODES[name], **options)
            ratio = seconds / (clock(args.device) - start)
            assert out.nfe == expected.nfe
            if blocks and args.dtype == "float32":
                assert torch.equal(out.sequences, expected.sequences), "an exact cache differs"
            computed[name] = out.cache.without / out.cache.computed
            latest[name] = ratio
            ratios[name] += [ratio] if repeat else []
        for name, sampler in others.items():
            start = clock(args.device)
            with torch.no_grad():
                sampler(model, ids, args.new, steps)
            # against ours with the first of the modes
            spent = (clock(args.device) - start) / (seconds / latest[modes[0]])
            ratios[name] += [spent] if repeat else []
        plain += [seconds] if repeat else []  # the first turn warms up
    return {
        "seconds": statistics.median(plain),
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
        "fewer_columns": computed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    families = ["blocks", "llada"]
    parser.add_argument("--family", nargs="+", choices=[*CLASSES, "modernbert"], default=families)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--prompt", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8], help="passes a block")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--new", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rivals", action="store_true", help="time other libraries, too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None, help="float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", choices=["default", "reduce-overhead"])
    parser.add_argument("--quick", action="store_true", help="tiny models, one run each")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.size, args.prompt, args.new, args.repeats = "tiny", [40], 64, 1
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    torch.set_num_threads(args.threads)
    name = platform.processor() or platform.machine()
    name = torch.cuda.get_device_name() if args.device != "cpu" else name
    compiled = f", compiled ({args.compile})" if args.compile else ""
    print(
        f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads, {args.dtype}, size "
        f"{args.size}{compiled}; times faster than cache='none' (in brackets: fewer columns by)"
    )
    results = []
    for family in args.family:
        model = build(family, args.size, args.device, getattr(torch, args.dtype))
        if args.compile:
            torch._dynamo.reset()
            model = torch.compile(model, mode=None if args.compile == "default" else args.compile)
        for batch in args.batch:
            for prompt in args.prompt:
                for steps in args.steps:
                    setting = {"family": family, "batch": batch, "prompt": prompt, "steps": steps}
                    found = compare(model, prompt, steps, batch, args)
                    results.append({**setting, **found})
                    first = next(iter(found["ratios"]))
                    cells = [
                        f"{mode} {ratio:.2f} ({found['fewer_columns'][mode]:.1f})"
                        if mode in found["fewer_columns"]
                        else f"{mode} takes {ratio:.2f} times as long as with {first}"
                        for mode, ratio in found["ratios"].items()
                    ]
                    print(
                        f"{family}, batch {batch}, prompt {prompt}, {steps} passes a block: "
                        f"{found['seconds']:.2f} s; {'; '.join(cells)}",
                        flush=True,
                    )
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
