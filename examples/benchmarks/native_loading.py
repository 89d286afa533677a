"""How long a released LLaDA takes to load natively, and how much memory, beside transformers' own.

    python examples/benchmarks/native_loading.py

Writes random weights of about `--parameters` parameters twice: in LLaDA's released format, and as a
plain Llama of transformers. Each is loaded in turns in fresh processes, in the `--dtype` that is
stored.
Prints the median of the loading times without imports (seconds of the wall clock and of the
processor), the largest memory that the process held beyond what it held before (as a multiple of
the weights' bytes), and the ratios of native to plain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

ONE = """
import resource, sys, threading, time
import torch, transformers
transformers.utils.logging.disable_progress_bar()
from mdm_schedules.integrations.transformers.native import load_native
from transformers import LlamaForCausalLM
torch.zeros(1).to(torch.bfloat16)

def held():  # what is private to the process, and what it wrote into mapped files
    lines = dict(line.split(":")[:2] for line in open("/proc/self/status") if ":" in line)
    return int(lines["RssAnon"].split()[0]) * 1024

start, most, going = held(), 0, True

def watch():
    global most
    while going:
        most = max(most, held() - start)
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
wall, processor = time.perf_counter(), time.process_time()
if sys.argv[1] == "native":
    model = load_native(sys.argv[2], dtype="auto")
else:
    model = LlamaForCausalLM.from_pretrained(sys.argv[2], dtype="auto")
wall, processor = time.perf_counter() - wall, time.process_time() - processor
going = False
watcher.join()
size = sum(x.numel() * x.element_size() for x in model.parameters())
print(wall, processor, most / size)
"""


def write(folder: Path, parameters: float, dtype: torch.dtype) -> int:
    """Write both forms of random weights; return their number."""
    from mdm_schedules.integrations.transformers.native.convert import convert

    hidden = 64 * round((parameters / 4e8) ** 0.5 * 1152 / 64)
    sizes = {
        "vocab_size": 32000,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": 20,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "plain")
    released = {"model_type": "llada", "architectures": ["LLaDAModelLM"], "mask_token_id": 31999}
    released |= {"block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu"}
    released |= {"rope": True, "embedding_size": 32000, "weight_tying": False}
    config = json.loads((folder / "plain" / "config.json").read_text())
    config |= {"model_type": "mdm_llama", "released": released, "attention_out_bias": False}
    (folder / "plain" / "config.json").rename(folder / "plain.json")
    (folder / "plain" / "config.json").write_text(json.dumps(config))
    convert(folder / "plain", folder / "native", to="released")
    (folder / "plain.json").replace(folder / "plain" / "config.json")
    return sum(x.numel() for x in model.parameters())


def main() -> None:
    """Run the measurement that the module describes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=5e8, help="about so many")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        count = write(folder, args.parameters, getattr(torch, args.dtype))
        found: dict[str, list[list[float]]] = {"native": [], "plain": []}
        for _ in range(args.rounds + 1):
            for kind, runs in found.items():
                words = [sys.executable, "-c", ONE, kind, str(folder / kind)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                runs.append([float(x) for x in done.stdout.split()])
        print(
            f"{count / 1e6:.0f} M parameters, {args.dtype}, transformers "
            f"{transformers.__version__}, torch {torch.__version__}, {args.rounds} rounds"
        )
        # the first round reads the files from the disk
        columns = {
            kind: [statistics.median(x) for x in zip(*runs[1:], strict=True)]
            for kind, runs in found.items()
        }
        for kind, (wall, processor, memory) in columns.items():
            print(
                f"{kind:7} {wall:.3f} s, {processor:.3f} s of the processor, {memory:.2f}x memory"
            )
        one, two = columns["native"], columns["plain"]
        print(f"ratio   {one[0] / two[0]:.2f} wall, {one[1] / two[1]:.2f} processor")


if __name__ == "__main__":
    main()
