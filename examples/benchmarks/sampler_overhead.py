"""Compares seconds per step spent outside the model: ours against the loops that models ship with.

    python examples/benchmarks/sampler_overhead.py --output sampler_overhead.json
    python examples/benchmarks/sampler_overhead.py --only ours --commit klass --memory-of klass

A fake model returns preallocated random logits (float32), so that everything but the forward pass
is timed. The prompt has 64 tokens; 128 new tokens are written in 128 steps, in blocks of 32 and in
one block of 128. At temperature 0 the script asserts that the tokens are the same. If diffusers is
installed, its block refinement scheduler is timed in LLaDA2Pipeline's loop with one token per step;
if dLLM is installed, so is its MDLM sampler. In each setting the loops take turns, and the medians
are reported: CPU time on a CPU (other work on the machine affects it less than wall time), wall
time on a GPU.

Three more figures are reported: how many rows of the vocabulary each loop reads per step; how often
per step it would make the host wait for a GPU (counted on a CPU by the operations that read a
value, or whose result's size depends on one); and the time to plan 1,024 rows of 256 tokens in 128
steps. `--commit` adds our loop with commit rules, whose thresholds random logits never reach, so
that it runs as many steps; `--memory-of` prints what such a run adds to the peak of memory, in a
process of its own. Random logits are unsure, so that klass compares none of them; with klass(kl=10)
it compares all.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent))
from reference_loops import llada_generate

import mdm_schedules as mdm
from mdm_schedules.sampling import DrawOptions, get_commit, sample

PROMPT, NEW = 64, 128


class Fake:
    """A model that ignores its input and returns logits [B, L, V].

    One set of logits serves the whole batch, so that large ones fit.
    """

    def __init__(self, batch: int, vocabulary: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        one = torch.randn(PROMPT + NEW, vocabulary, generator=generator)
        one[:, -1] = -100.0  # the mask; the reference loop would return it
        self.logits = one.to(device).repeat(batch, 1, 1)
        self.prompt = torch.randint(0, vocabulary - 1, (batch, PROMPT), generator=generator).to(
            device
        )
        self.mask = vocabulary - 1
        self.rows = 0

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self.rows += tokens.numel()
        return self.logits

    def some(self, tokens: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The denoiser of our loop."""
        self.rows += len(rows)
        return self.logits.flatten(0, 1), rows


# (block length, steps, temperature) -> tokens
Loop = Callable[[Fake, int, int, float], torch.Tensor]


def ours(
    fake: Fake, block: int, steps: int, temperature: float, commit: str | None = None
) -> torch.Tensor:
    """`sample` with the head's logits at wanted rows."""
    tokens = torch.nn.functional.pad(fake.prompt, (0, NEW), value=fake.mask)
    ends = list(range(PROMPT + block, PROMPT + NEW + 1, block))
    out = sample(
        fake.some,
        tokens,
        mask_token_id=fake.mask,
        block_ends=ends,
        steps=[steps // len(ends)] * len(ends),
        draw=DrawOptions(temperature),
        commit=None if commit is None else get_commit(commit),
        seed=0,
    )
    return out.sequences


def llada(fake: Fake, block: int, steps: int, temperature: float) -> torch.Tensor:
    """The loop that LLaDA ships with."""
    return llada_generate(
        fake,
        fake.prompt,
        mask_id=fake.mask,
        steps=steps,
        new_tokens=NEW,
        block_length=block,
        temperature=temperature,
    )


def diffusers(fake: Fake, block: int, steps: int, temperature: float) -> torch.Tensor:
    """BlockRefinementScheduler as LLaDA2Pipeline drives it.

    A threshold above 1 and no editing leave only its quotas.
    """
    from diffusers import BlockRefinementScheduler

    scheduler = BlockRefinementScheduler(block_length=block)
    per_block = steps * block // NEW
    scheduler.set_timesteps(per_block, device=fake.logits.device)
    tokens = torch.nn.functional.pad(fake.prompt, (0, NEW), value=fake.mask)
    for start in range(PROMPT, PROMPT + NEW, block):
        for step in range(per_block):
            fake.rows += len(tokens) * block  # of the logits, the scheduler gets these
            logits = fake.logits[:, start : start + block]
            tokens[:, start : start + block] = scheduler.step(
                model_output=logits,
                timestep=step,
                sample=tokens[:, start : start + block],
                mask_token_id=fake.mask,
                temperature=temperature,
                sampling_method="multinomial" if temperature else "greedy",
                threshold=1.1,
                editing_threshold=None,
                prompt_mask=torch.zeros(block, dtype=torch.bool, device=tokens.device),
            ).prev_sample
    return tokens


def dllm(fake: Fake, block: int, steps: int, temperature: float) -> torch.Tensor:
    """dLLM's MDLM sampler."""
    from dllm.core.samplers.mdlm import MDLMSampler, MDLMSamplerConfig

    def model(tokens: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(logits=fake(tokens))

    tokenizer = SimpleNamespace(mask_token_id=fake.mask, bos_token_id=0, eos_token_id=0)
    config = MDLMSamplerConfig(
        max_new_tokens=NEW,
        block_size=block,
        steps=steps,
        temperature=temperature,
        return_dict=False,
    )
    model.device = fake.logits.device  # type: ignore[attr-defined]
    sampler = MDLMSampler(model=model, tokenizer=tokenizer)
    return sampler.sample(list(fake.prompt), config)


def available() -> dict[str, Loop]:
    """Map names to loops, for the installed libraries."""
    loops: dict[str, Loop] = {"ours": ours, "LLaDA": llada}
    try:
        import diffusers as installed

        if hasattr(installed, "BlockRefinementScheduler"):
            loops["diffusers"] = diffusers
    except ImportError:
        pass
    try:
        import dllm.core.samplers.mdlm

        loops["dLLM"] = dllm
    except ImportError:
        pass
    return loops


class HostWaits(TorchDispatchMode):
    """Counts the operations whose result a host must wait for.

    These are values read, and results whose size depends on values.
    """

    ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += by_mask or name in self.ASKING
        return func(*args, **(kwargs or {}))


def timed(
    loop: Loop, fake: Fake, block: int, steps: int, temperature: float
) -> tuple[float, torch.Tensor]:
    """Return milliseconds per step of one run, and its tokens."""
    clock: Callable[[], float] = time.process_time
    if fake.logits.is_cuda:

        def clock() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

    start = clock()
    tokens = loop(fake, block, steps, temperature)
    return (clock() - start) / steps * 1e3, tokens


def compare(
    loops: dict[str, Loop], fake: Fake, block: int, temperature: float, args: argparse.Namespace
) -> dict[str, float]:
    """Return the median milliseconds per step of each loop.

    The loops take turns, and must write the same tokens at temperature 0.
    """
    times: dict[str, list[float]] = {loop: [] for loop in loops}
    batch, expected = len(fake.prompt), {}
    for _ in range(args.repeats):
        for loop, run in loops.items():
            slow = not loop.startswith("ours") and (
                batch > 1 or (temperature > 0 and loop != "diffusers")
            )
            steps = max(args.slow_steps, NEW // block) if slow else args.steps
            spent, tokens = timed(run, fake, block, steps, temperature)
            times[loop].append(spent)
            if temperature == 0:
                if steps not in expected:
                    expected[steps] = ours(fake, block, steps, 0.0)
                assert torch.equal(tokens, expected[steps]), f"{loop} wrote other tokens than ours"
    return {loop: statistics.median(values) for loop, values in times.items()}


def counted(
    loops: dict[str, Loop], batch: int, block: int, temperature: float
) -> dict[str, tuple[float, float]]:
    """Return vocabulary rows per step and sequence, and host waits per step.

    They are counted in 128 steps over a small vocabulary.
    """
    counts = {}
    for loop, run in loops.items():
        fake = Fake(batch, 64, "cpu")
        with HostWaits() as waits:
            run(fake, block, NEW, temperature)
        counts[loop] = fake.rows / batch / NEW, waits.count / NEW
    return counts


def added_memory(commit: str, batch: int, vocabulary: int, block: int) -> float:
    """Return the MiB that a run with this rule adds to the peak memory of one without, on Linux."""
    peaks = []
    for rule in (None, commit):
        code = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "from sampler_overhead import Fake, ours\n"
            f"fake = Fake({batch}, {vocabulary}, 'cpu')\n"
            # the peak begins anew, since making the logits takes more than the run
            "open('/proc/self/clear_refs', 'w').write('5')\n"
            f"ours(fake, {block}, 16, 0.0, {rule!r})\n"
            "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        peaks.append(int(out.stdout) / 1024)
    return peaks[1] - peaks[0]


def planning(repeats: int) -> float:
    """Return the milliseconds to plan 1,024 rows of 256 tokens in 128 steps."""
    schedule, tokens, times = mdm.get_schedule("beta(a=0.9, b=0.3)"), torch.full((1024,), 256), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        schedule.plan(tokens, 128)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_768, 126_464])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--block", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument(
        "--steps", type=int, default=128, help="for ours, and at batch 1 for the others"
    )
    parser.add_argument("--slow-steps", type=int, default=16, help="where they would take minutes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="loops to time (default: all that are installed)")
    parser.add_argument("--commit", nargs="+", default=[], help="commit rules, as klass")
    parser.add_argument("--memory-of", help="a commit rule, whose memory is printed")
    parser.add_argument(
        "--memory", type=float, default=16, help="GiB; LLaDA's loop is left out where it needs more"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="a small vocabulary, one run each")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.vocabulary, args.batch, args.repeats, args.slow_steps = [512], [1, 2], 1, 4
    if args.threads:
        torch.set_num_threads(args.threads)
    name = (
        torch.cuda.get_device_name()
        if args.device == "cuda"
        else platform.processor() or platform.machine()
    )
    kind = "" if args.device == "cuda" else "CPU "
    print(
        f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads; "
        f"{kind}milliseconds per step, medians"
    )
    loops = {name: loop for name, loop in available().items() if name in (args.only or [name])}
    loops |= {f"ours, {rule}": functools.partial(ours, commit=rule) for rule in args.commit}
    others = [loop for loop in loops if loop != "ours"]
    results: dict[str, Any] = {"loops": [], "counts": []}
    heads = [*loops, *(f"{loop} / ours" for loop in others)]
    for temperature in args.temperature:
        print(
            f"\nTemperature {temperature:g}:\n\n| vocabulary | batch | block | "
            + " | ".join(heads)
            + " |"
        )
        print("|---" * (len(heads) + 3) + "|")
        for vocabulary in args.vocabulary:
            for batch in args.batch:
                fake = Fake(batch, vocabulary, args.device)
                # the noise of LLaDA's loop takes four arrays of the logits' shape in float64
                fitting = dict(loops)
                if temperature and 4 * 8 * fake.logits.numel() > args.memory * 2**30:
                    del fitting["LLaDA"]
                for block in args.block:
                    medians = compare(fitting, fake, block, temperature, args)
                    times = [f"{medians[loop]:,.2f}" if loop in medians else "" for loop in loops]
                    ratios = [
                        f"{medians[loop] / medians['ours']:,.1f}" if loop in medians else ""
                        for loop in others
                    ]
                    cells = [f"{vocabulary:,}", str(batch), str(block), *times, *ratios]
                    print("| " + " | ".join(cells) + " |", flush=True)
                    setting = {
                        "vocabulary": vocabulary,
                        "batch": batch,
                        "block": block,
                        "temperature": temperature,
                    }
                    results["loops"].append({**setting, "milliseconds_per_step": medians})
    print(
        "\n| batch | block | temperature | rows per step and sequence, and host waits per step: "
        + " | ".join(loops)
        + " |"
    )
    print("|---" * (len(loops) + 3) + "|")
    for batch in args.batch:
        for block in args.block:
            for temperature in args.temperature:
                counts = counted(loops, batch, block, temperature)
                cells = [str(batch), str(block), f"{temperature:g}"]
                print(
                    "| "
                    + " | ".join(
                        cells + [f"{rows:.1f}, {waits:.2f}" for rows, waits in counts.values()]
                    )
                    + " |"
                )
                setting = {"batch": batch, "block": block, "temperature": temperature}
                results["counts"].append({**setting, "rows_and_waits_per_step": counts})
    if args.memory_of:
        results["added_mib"] = {}
        for vocabulary, batch, block in product(args.vocabulary, args.batch, args.block):
            added = added_memory(args.memory_of, batch, vocabulary, block)
            results["added_mib"][f"{vocabulary}, {batch}, {block}"] = added
            print(
                f"{args.memory_of}, vocabulary {vocabulary:,}, batch {batch}, block {block}: "
                f"{added:,.0f} MiB more at the peak"
            )
    results["planning_milliseconds"] = planning(5 * args.repeats)
    print(
        "\nPlanning 1,024 rows of 256 tokens in 128 steps: "
        f"{results['planning_milliseconds']:.2f} ms"
    )
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
