"""Compares the time of one step of our schedulers with that of diffusers' own.

    python examples/benchmarks/diffusers_step_time.py

Both schedulers get the same logits and generator on the same machine, run all steps and take turns.
A cell is the median, over runs, of the median step of a run; the ratio is ours / theirs. On a CPU
the script measures process time, which other programs affect little. It fails if the tokens differ.
The random logits are made before the clock starts.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import diffusers
import torch
from diffusers import AmusedScheduler, BlockRefinementScheduler

import mdm_schedules as mdm


def run(scheduler, timesteps, step, tokens, device):
    """Return the seconds of each step and the final tokens."""
    seconds = []
    for number, t in enumerate(timesteps):
        start = now(device)
        tokens = step(scheduler, number, t, tokens)
        seconds.append(now(device) - start)
    return seconds, tokens


def now(device):
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def compare(name, pair, timesteps, step, tokens, runs, device):
    medians = ([], [])
    for number in range(runs + 1):
        ends = []
        for which, scheduler in enumerate(pair):
            seconds, end = run(scheduler, timesteps(scheduler), step(number), tokens, device)
            ends.append(end)
            if number:  # the first run warms up
                medians[which].append(statistics.median(seconds) * 1e3)
        assert torch.equal(*ends), f"{name}: other tokens than diffusers"
    theirs, ours = map(statistics.median, medians)
    print(f"{name:58} {theirs:9.2f} {ours:9.2f} {ours / theirs:7.2f}", flush=True)
    return {"case": name, "theirs_ms": theirs, "ours_ms": ours, "ratio": ours / theirs}


def blocks(args, device, temperature, editing):
    batch, length, vocabulary, steps = args.batch, 32, args.vocabulary, args.steps
    logits = torch.randn(batch, length, vocabulary, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    mask = vocabulary - 1
    logits[..., mask] = -1e4
    pair = [BlockRefinementScheduler(length), mdm.BlockMaskedDiffusionScheduler(length)]
    for scheduler in pair:
        scheduler.set_timesteps(steps, device=device)

    def step(seed):
        generator = torch.Generator(device).manual_seed(seed)
        settings = {"temperature": temperature, "threshold": 1.1, "editing_threshold": editing}

        def one(scheduler, number, t, tokens):
            common = {"mask_token_id": mask, "generator": generator, **settings}
            return scheduler.step(logits, number, tokens, **common).prev_sample

        return one

    name = f"block {length}, V={vocabulary}, temperature {temperature:g}" + (
        ", editing" if editing else ""
    )
    tokens = torch.full((batch, length), mask, device=device)
    return compare(name, pair, lambda s: s.timesteps, step, tokens, args.runs, device)


def images(args, device, side):
    batch, codes, steps = args.batch, args.codes, args.steps
    logits = torch.randn(batch, codes, side, side, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    pair = [AmusedScheduler(mask_token_id=codes), mdm.MaskedDiffusionScheduler(codes, "cosine")]
    for scheduler in pair:
        scheduler.set_timesteps(steps, (2, 0), device)

    def step(seed):
        generator = torch.Generator(device).manual_seed(seed)
        return lambda scheduler, number, t, tokens: (
            scheduler.step(logits, t, tokens, generator=generator).prev_sample
        )

    tokens = torch.full((batch, side, side), codes, device=device)
    name = f"image of {side * side} tokens, {codes} codes"
    return compare(name, pair, lambda s: s.timesteps, step, tokens, args.runs, device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=126_464)
    parser.add_argument("--codes", type=int, default=8192)
    parser.add_argument("--sides", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    machine = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    print(f"{versions}, {machine}, {torch.get_num_threads()} threads")
    print(f"batch {args.batch}, {args.steps} steps, {args.runs} runs")
    print(f"{'':58} {'theirs ms':>9} {'ours ms':>9} {'ratio':>7}")
    rows = [
        blocks(args, device, *case) for case in ((0.0, None), (0.0, 0.5), (1.0, None), (1.0, 0.5))
    ]
    rows += [images(args, device, side) for side in args.sides]
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
