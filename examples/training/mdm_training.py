"""Objective, training loop, likelihood bound and saving for train_code.py and train_sudoku.py.

The models are masked diffusion models with the absorbing ("mask") state (arXiv 2406.07524). ``t``
is the masked fraction: at ``t`` each token is masked independently with probability ``t`` (the
linear schedule). The negative evidence bound is the mean over ``t`` in (0, 1] of the masked tokens'
cross-entropy divided by ``t``.
"""

import argparse
import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, EsmForMaskedLM, PreTrainedTokenizerFast

MaskedLM = BertForMaskedLM | EsmForMaskedLM

#: the smallest masked fraction drawn in training; smaller ones add noise (weight 1/t) and
#: hardly any signal
MIN_T = 1e-3


def common_parser(doc: str | None, **defaults: object) -> argparse.ArgumentParser:
    """Options that both scripts take; the defaults are those of the shipped models."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write the model and tokenizer to"
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument(
        "--decay", type=float, help="share of the steps in which the rate falls to 0, at the end"
    )
    parser.add_argument(
        "--spans",
        type=float,
        default=0.0,
        help="share of windows in which only a span is masked",
    )
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--heads", type=int)
    parser.add_argument("--ffn", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cuda multiplies in bfloat16")
    parser.add_argument("--compile", action="store_true", help="the model's trunk, on a GPU")
    parser.add_argument("--save-minutes", type=float, default=5.0, help="time between checkpoints")
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny model and a few steps, to test the script"
    )
    parser.set_defaults(**defaults)
    return parser


def build_model(
    args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast, length: int
) -> BertForMaskedLM:
    """A bidirectional transformer with learned positions, tied embeddings and no dropout."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=args.ffn,
        max_position_embeddings=length,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        # at these widths BERT's 0.02 leaves attention nearly uniform for a long time
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return BertForMaskedLM(config)


def draw_spans(
    batch: int, length: int, share: float, longest: int, generator: torch.Generator
) -> Tensor:
    """Return bool [B, L]: what may be masked, a span in a share of the rows and all in the others.

    Spans train what infilling asks: everything around them is given. The logarithm of their size
    is uniform, from 2 tokens to `longest`.
    """
    sizes = torch.rand((batch, 1), generator=generator).mul(math.log((longest + 1) / 2)).exp()
    sizes = (2 * sizes).long()
    starts = (torch.rand((batch, 1), generator=generator) * (length - sizes + 1)).long()
    places = torch.arange(length)
    inside = (places >= starts) & (places < starts + sizes)
    return inside | (torch.rand((batch, 1), generator=generator) >= share)


def mdm_loss(
    model: MaskedLM,
    ids: Tensor,
    mask_id: int,
    generator: torch.Generator,
    maskable: Tensor | None = None,
    trunk: Callable[..., Any] | None = None,
) -> Tensor:
    """Draw the negative evidence bound of ``ids [B, L]`` once, in nats per token (batch mean).

    Where `maskable`, bool [B, L], is given, the other tokens are a prompt, and do not count. All
    draws are made on the CPU, so that they do not depend on the model's device. `trunk` may be a
    compiled form of the model without its head.
    """
    batch, length = ids.shape
    # one uniform offset and B equal strata: far less variance than B independent draws of t
    t = (torch.rand((), generator=generator) + torch.arange(batch)) / batch
    t = (MIN_T + (1 - MIN_T) * t).unsqueeze(1).expand(batch, length)
    masked = torch.rand(ids.shape, generator=generator) < t
    if maskable is not None:
        masked &= maskable
    counted = batch * length if maskable is None else int(maskable.sum())
    places = masked.flatten().nonzero().squeeze(1).to(model.device)
    weights = (1 / t[masked]).to(model.device)
    targets = ids[masked].to(model.device)
    inputs = ids.masked_fill(masked, mask_id).to(model.device)
    head = model.cls if isinstance(model, BertForMaskedLM) else model.lm_head
    run = model.base_model if trunk is None else trunk
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type != "cpu"):
        hidden = run(inputs).last_hidden_state
        loss = F.cross_entropy(head(hidden.flatten(0, 1)[places]), targets, reduction="none")
    return (loss * weights).sum() / counted


@torch.no_grad()
def nll_bound(
    model: MaskedLM, ids: Tensor, mask_id: int, draws: int, seed: int, batch: int = 128
) -> tuple[float, float]:
    """Estimate the negative evidence bound of ``ids [N, L]`` in nats per token, and its error.

    The number of masked tokens is drawn uniformly from 1..L, and the mean cross-entropy over them
    is taken. Its expectation equals the integral over ``t``, with less variance. The error is that
    of the mean over sequences and draws, as if independent.
    """
    generator = torch.Generator().manual_seed(seed)
    values = []
    model.eval()
    for rows in ids.repeat(draws, 1).split(batch):
        count = torch.randint(1, rows.shape[1] + 1, (len(rows), 1), generator=generator)
        masked = torch.rand(rows.shape, generator=generator).argsort(1).argsort(1) < count
        logits = model(rows.masked_fill(masked, mask_id)).logits
        # the mask is not a token of the data; a sampler never draws it either
        logits[..., mask_id] = -math.inf
        loss = F.cross_entropy(logits.transpose(1, 2), rows, reduction="none")
        values.append((loss * masked).sum(1) / count.squeeze(1))
    result = torch.cat(values).double()
    return result.mean().item(), (result.std() / math.sqrt(len(result))).item()


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """The rate as a share of ``--lr``: a warm-up, then a cosine, or level with a linear end."""
    warm = (step + 1) / args.warmup
    if args.decay:
        return min(1.0, warm, (args.steps - step) / (args.decay * args.steps))
    return min(warm, 0.5 + 0.5 * math.cos(math.pi * step / args.steps))


def train(
    model: MaskedLM,
    args: argparse.Namespace,
    mask_id: int,
    next_batch: Callable[[], Tensor],
    tokenizer: PreTrainedTokenizerFast,
    generators: Sequence[torch.Generator] = (),
) -> MaskedLM:
    """Train for ``args.steps`` steps and return the exponential moving average of the weights.

    The result depends on the seed, the options and the versions of the libraries, never on time:
    the timed checkpoints only read the state. With `generators`, those that `next_batch` draws
    from, a checkpoint is kept beside ``--out`` from which the same command goes on.
    """
    generator = torch.Generator().manual_seed(args.seed + 1)
    model = model.to(args.device)
    trunk = torch.compile(model.base_model) if args.compile else None
    average = copy.deepcopy(model).eval()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": args.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=args.lr,
        betas=(0.9, 0.98),
        fused=model.device.type != "cpu",
    )
    parts = [model, average, optimiser]
    sources = [generator, *generators]
    checkpoint = args.out.with_name(args.out.name + ".state.pt")
    first = 0
    if generators and checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True, map_location="cpu")
        first = kept["step"]
        for part, state in zip(parts, kept["parts"], strict=True):
            part.load_state_dict(state)
        for source, state in zip(sources, kept["generators"], strict=True):
            source.set_state(state)
        print(f"goes on from step {first}", flush=True)
    start = saved = time.monotonic()
    total, counted = 0.0, 0
    model.train()
    for step in range(first, args.steps):
        rate = learning_rate(step, args)
        for group in optimiser.param_groups:
            group["lr"] = args.lr * rate
        ids = next_batch()
        maskable = None
        if args.spans:
            maskable = draw_spans(*ids.shape, args.spans, ids.shape[1] // 2, generator)
        loss = mdm_loss(model, ids, mask_id, generator, maskable, trunk)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            # a shorter average at first, so that an early checkpoint is not the initial weights
            decay = min(args.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        total, counted = total + loss.detach(), counted + 1
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            print(
                f"step {step + 1} loss {float(total) / counted:.4f} lr {args.lr * rate:.2e} "
                f"{time.monotonic() - start:.1f} s",
                flush=True,
            )
            total, counted = 0.0, 0
        if time.monotonic() - saved > 60 * args.save_minutes:
            save(average, tokenizer, args.out)
            if generators:
                keep = {
                    "step": step + 1,
                    "parts": [part.state_dict() for part in parts],
                    "generators": [source.get_state() for source in sources],
                }
                aside = checkpoint.with_suffix(".partial")
                torch.save(keep, aside)
                aside.replace(checkpoint)
            saved = time.monotonic()
    save(average, tokenizer, args.out)
    return average


def save(model: MaskedLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the folder aside and rename it, so that ``out`` always holds a whole model."""
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    copy.deepcopy(model).cpu().half().save_pretrained(aside)
    rename_rotary(aside / "model.safetensors", model)
    tokenizer.save_pretrained(aside)
    # stored in half precision to be small, but to be loaded as the float32 model that it was
    # trained as
    edit_json(aside / "config.json", dtype="float32")
    # transformers 5 writes a class name that transformers 4 does not know; both know this one
    edit_json(aside / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)


def rename_rotary(path: Path, model: MaskedLM) -> None:
    """Store ESM's rotary frequencies in float32, under names that transformers 4 and 5 know."""
    tensors = load_file(path)
    stored = [name for name in tensors if name.endswith("rotary_embeddings.inv_freq")]
    exact = [one for name, one in model.named_buffers() if name.endswith("inv_freq")]
    for name in stored:
        del tensors[name]
        for layer in range(model.config.num_hidden_layers):
            tensors[name.replace("*", str(layer))] = exact[0].cpu().clone()
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path: Path, **values: object) -> None:
    """Set top-level keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2) + "\n")


def parameter_count(model: MaskedLM) -> int:
    """Number of parameters, tied ones counted once."""
    return sum(p.numel() for p in model.parameters())
