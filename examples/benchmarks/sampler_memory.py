"""Measures the peak memory that a sampler needs beyond the model's own logits.

    python examples/benchmarks/sampler_memory.py

Each loop runs in a process of its own on preallocated logits [4, 192, 126464] (float32). The figure
is the rise above the level before the first step: of the process's resident memory on a CPU, of the
allocator's peak on a GPU. The temperature is 1; blocks have 32 or 128 tokens and one pass each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from sampler_overhead import NEW, Fake, available


def measure(loop: str, batch: int, vocabulary: int, block: int, device: str) -> float:
    """Return MiB above the start of the loop, after a small run that loads what is loaded once."""
    run = available()[loop]
    run(Fake(1, 1024, device), block, NEW // block, 1.0)
    fake = Fake(batch, vocabulary, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.max_memory_allocated() / 2**20
        run(fake, block, NEW // block, 1.0)
        return torch.cuda.max_memory_allocated() / 2**20 - before
    peak, done = [resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            peak[0] = max(peak[0], resident())

    before = peak[0]
    thread = threading.Thread(target=watch)
    thread.start()
    run(fake, block, NEW // block, 1.0)
    done.set()
    thread.join()
    return peak[0] - before


def resident() -> float:
    """Return the resident memory of this process in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=126_464)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="a small vocabulary, our loop alone")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    parser.add_argument("--block", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loop:
        print(measure(args.loop, args.batch, args.vocabulary, args.block, args.device))
        return
    if args.quick:
        args.vocabulary = 4096
    print(
        f"torch {torch.__version__}, {args.device}, batch {args.batch}, vocabulary "
        f"{args.vocabulary}, temperature 1"
    )
    print("| loop | block | MiB beyond the logits |\n|---|---|---|")
    for loop in ["ours"] if args.quick else available():
        for block in (32, 128):
            command = [
                sys.executable,
                __file__,
                "--loop",
                loop,
                "--block",
                str(block),
                "--device",
                args.device,
            ]
            command += ["--batch", str(args.batch), "--vocabulary", str(args.vocabulary)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"| {loop} | {block} | {float(answer.stdout):.0f} |", flush=True)


if __name__ == "__main__":
    main()
