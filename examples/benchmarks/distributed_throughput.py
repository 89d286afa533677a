"""Measures distributed sampling: throughput, padding, and peak memory by number of prompts.

    OMP_NUM_THREADS=1 python examples/benchmarks/distributed_throughput.py

Each process has one thread. The throughput of several processes over that of one is reported twice.
The ratio of wall times also measures whatever else runs on the machine. The ratio of CPU times
divides the time of one process alone by that of the busiest of several.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import random
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import transformers.models.esm.modeling_esm

import mdm_schedules as mdm
import mdm_schedules.integrations.accelerate
from mdm_schedules.demo import models as demo_models
from mdm_schedules.integrations.accelerate.prompts import WINDOW, Prompt, cut


def start(world: int, work: Callable[..., Any], *args: Any) -> tuple[list[int], list[int]]:
    """Fork the processes of one job.

    Returns their ids, and file descriptors from which the pickled results of `work` can be read.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ids, pipes = [], []
    for rank in map(str, range(world)):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(read)
                os.environ.update(
                    RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world)
                )
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
                torch.set_num_threads(1)
                answer = pickle.dumps(work(*args))
                while answer:
                    answer = answer[os.write(write, answer) :]
                os._exit(0)
            except Exception as error:  # a surviving process, abandoned by one that failed
                print(f"process {rank}: {error}", file=sys.stderr)
            finally:
                os._exit(1)
        os.close(write)
        ids.append(child)
        pipes.append(read)
    return ids, pipes


def run(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Return the result of `work` in each process."""
    ids, pipes = start(world, work, *args)
    answers = []
    for pipe in pipes:
        with os.fdopen(pipe, "rb") as file:
            answers.append(pickle.loads(file.read()))
    for process in ids:
        os.waitpid(process, 0)
    return answers


def write_code(
    prompts: list[str], path: str | None, new_tokens: int = 32
) -> tuple[float, float, int]:
    """Run the job with the shipped code model; return wall seconds, CPU seconds and tokens.

    The CPU seconds are those of this process. With a path, a file beside it marks that this process
    has begun.
    """
    transformers.utils.logging.disable_progress_bar()
    folder = demo_models.path("code")
    model = mdm.AutoModelForMaskedDiffusion.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    cpu = time.process_time()

    def read() -> Iterator[str]:
        if path is not None:
            Path(f"{path}.begun-{os.getpid()}").touch()
        yield from prompts

    out = mdm.generate_distributed(
        model,
        read(),
        tokenizer=tokenizer,
        output_path=path,
        batch_size=8,
        max_new_tokens=new_tokens,
        steps=16,
        temperature=1.0,
        remasking="random",
        seed=0,
        timeout=5,
    )
    return out.seconds, time.process_time() - cpu, out.tokens


def some_code(count: int, seed: int = 0) -> list[str]:
    """Cut this script into pieces of 1 to 80 characters."""
    text, source = Path(__file__).read_text(encoding="utf-8"), random.Random(seed)
    begins = [source.randrange(len(text) - 80) for _ in range(count)]
    return [text[begin : begin + source.randrange(1, 80)] for begin in begins]


def throughput(worlds: list[int], count: int, runs: int) -> None:
    prompts = some_code(count)
    wall: dict[int, list[float]] = {world: [] for world in worlds}
    busiest: dict[int, list[float]] = {world: [] for world in worlds}
    for _ in range(runs):
        for world in worlds:
            answers = run(world, write_code, prompts, None)
            assert {tokens for _, _, tokens in answers} == {count * 32}
            wall[world].append(max(seconds for seconds, _, _ in answers))
            busiest[world].append(max(cpu for _, cpu, _ in answers))
    print(
        f"\n{count} prompts of the shipped code model, 32 tokens in 16 passes, batch 8, medians "
        f"of {runs}"
    )
    print(
        "| processes | wall s | tokens/s | ratio | CPU s of the busiest | ratio "
        "|\n|---|---|---|---|---|---|"
    )
    for world in worlds:
        seconds, cpu = statistics.median(wall[world]), statistics.median(busiest[world])
        ratio, by_cpu = (
            statistics.median(wall[worlds[0]]) / seconds,
            statistics.median(busiest[worlds[0]]) / cpu,
        )
        print(
            f"| {world} | {seconds:.2f} | {count * 32 / seconds:.0f} | {ratio:.2f} | {cpu:.2f} | "
            f"{by_cpu:.2f} |"
        )


def padding(count: int, batch_size: int) -> None:
    """Return padding tokens per prompt token, in the order of arrival and in our order."""
    lengths = np.random.default_rng(0).lognormal(4.5, 0.8, count).astype(int).clip(1, 4096)

    def waste(batches: list[list[int]]) -> float:
        return sum(max(batch) * len(batch) for batch in batches) / sum(map(sum, batches)) - 1

    naive = [lengths[i : i + batch_size].tolist() for i in range(0, count, batch_size)]
    ours: list[list[int]] = []
    for i in range(0, count, WINDOW):
        prompts = [
            Prompt(k, "", np.zeros(n, np.int64)) for k, n in enumerate(lengths[i : i + WINDOW])
        ]
        ours += [
            [len(prompt.ids) for prompt in batch]
            for batch in cut(prompts, batch_size, lambda length: 0)
        ]
    print(
        f"\n{count} prompts of log-normal length (median {np.median(lengths):.0f}, sigma 0.8), "
        f"batch {batch_size}"
    )
    print(f"padding per token: {waste(naive):.3f} in the order of arrival, {waste(ours):.4f} here,")
    print(f"a ratio of {waste(naive) / waste(ours):.0f}")


def peak(path: str, count: int) -> float:
    """Return the peak memory of this process in MiB.

    The model is trivial, so that memory used by anything else shows.
    """

    def model(tokens: torch.Tensor) -> torch.Tensor:
        return torch.ones(1).expand(*tokens.shape, 16)

    options = {"mask_token_id": 0, "max_new_tokens": 4, "steps": 1, "batch_size": 64, "seed": 0}
    out = mdm.generate_distributed(model, path, output_path=f"{path}.out", **options)
    assert out.prompts == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(counts: list[int]) -> None:
    print("\npeak resident memory of a process, trivial model, from a JSONL file to a JSONL file")
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            path = Path(folder) / f"{count}.jsonl"
            with open(path, "w", encoding="utf-8") as file:
                for n in range(count):
                    file.write(json.dumps({"id": n, "prompt": [1 + n % 9] * (32 + n % 8)}) + "\n")
            print(f"{count} prompts: {run(1, peak, str(path), count)[0]:.1f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="+", default=[10_000, 100_000])
    args = parser.parse_args()
    about = f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores"
    print(f"{platform.platform()}, {about}, load {os.getloadavg()[0]:.1f}")
    padding(20_000, 16)
    memory(args.memory)
    throughput(args.processes, args.prompts, args.runs)


if __name__ == "__main__":
    main()
