"""Answers a file of prompts on every available GPU; repeat the command after an interruption.

    accelerate launch examples/distributed_sampling.py --prompts prompts.jsonl --output out.jsonl

python, torchrun, and accelerate launch on several machines work as well. Each line of the prompts
is {"prompt": ..., "id": ...}.
"""

import argparse

import torch
from accelerate import PartialState
from transformers import AutoTokenizer

import mdm_schedules as mdm
from mdm_schedules.demo import models as demo_models


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--model", default=str(demo_models.path("code")), help="folder or Hub id")
    parser.add_argument("--schedule", default="beta(a=0.8, b=0.3)")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()

    state = PartialState(cpu=not torch.cuda.is_available())  # each process gets a GPU of its own
    model = mdm.AutoModelForMaskedDiffusion.from_pretrained(args.model, schedule=args.schedule).to(
        state.device
    )
    out = mdm.generate_distributed(
        model,
        args.prompts,
        tokenizer=AutoTokenizer.from_pretrained(args.model),
        output_path=args.output,
        batch_size=args.batch_size,
        on_error="skip",
        progress=True,
        max_new_tokens=32,
        steps=16,
        temperature=0.7,
        remasking="random",
        seed=0,
    )
    state.print(out)


if __name__ == "__main__":
    main()
