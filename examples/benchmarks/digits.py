"""Samples images by schedule and steps from a known distribution: digits on a small grid of codes.

    python examples/benchmarks/digits.py --output digits

The distribution ("the world") is uniform over every digit of Pillow's built-in font at every even
shift that fits on 12 x 12 pixels. A token is one of 16 codes and stands for 2 x 2 pixels. A small
transformer learns within minutes to fill masked tokens. MaskedDiffusionScheduler then draws images
under each schedule in AmusedScheduler's order: by confidence, with noise that cools down. The table
gives

    valid: percent of samples that are pictures of the world, exactly
    wrong: mean number of tokens that differ from the nearest picture of the world
    digits: entropy of the digits among the samples, as percent of that of the world

with one standard error. The number of samples and the seeds are the same in every cell. Writes
digits.json into --output.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

import mdm_schedules as mdm

SIDE, GRID = 12, 6  # pixels and tokens
MASK = 16  # the mask follows the 16 codes of 2 x 2 binary pixels
SCHEDULES = ("linear", "cosine", "sine", "squared_sine", "beta(a=0.9, b=0.3)", "beta(a=0.8, b=0.3)")


def draw_world() -> tuple[torch.Tensor, torch.Tensor]:
    """Return all pictures as codes [N, GRID, GRID], and their digits [N]."""
    font = ImageFont.load_default(size=11)
    pictures, digits = [], []
    for digit in range(10):
        image = Image.new("L", (3 * SIDE, 3 * SIDE))
        ImageDraw.Draw(image).text((SIDE, SIDE), str(digit), fill=255, font=font)
        glyph = np.asarray(image) > 90
        rows, columns = glyph.any(1).nonzero()[0], glyph.any(0).nonzero()[0]
        glyph = glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        for down in range(0, SIDE - glyph.shape[0] + 1, 2):
            for right in range(0, SIDE - glyph.shape[1] + 1, 2):
                picture = np.zeros((SIDE, SIDE), dtype=np.int64)
                picture[down : down + glyph.shape[0], right : right + glyph.shape[1]] = glyph
                pictures.append(picture)
                digits.append(digit)
    pixels = torch.from_numpy(np.stack(pictures)).view(-1, GRID, 2, GRID, 2)
    bits = pixels.transpose(2, 3).flatten(3)  # [N, GRID, GRID, 4]
    return (bits << torch.arange(4)).sum(3), torch.tensor(digits)


def to_pixels(codes: torch.Tensor) -> torch.Tensor:
    """Turn codes [GRID, GRID] into pixels [SIDE, SIDE] of 0 and 1."""
    bits = (codes[..., None] >> torch.arange(4)) & 1
    return bits.view(GRID, GRID, 2, 2).transpose(1, 2).reshape(SIDE, SIDE)


class Painter(nn.Module):
    """Maps codes [B, GRID, GRID] with masks to logits [B, 16, GRID, GRID]."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.code = nn.Embedding(MASK + 1, width)
        self.position = nn.Parameter(torch.randn(GRID * GRID, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, MASK)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        hidden = self.code(codes.flatten(1)) + self.position
        return self.head(self.body(hidden)).transpose(1, 2).unflatten(2, (GRID, GRID))


def train(world: torch.Tensor, seconds: float, batch: int = 16) -> tuple[Painter, int]:
    """Fit for so many seconds by masked cross-entropy, with a uniform number of masks."""
    torch.manual_seed(0)
    model, start, step = Painter(), time.process_time(), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    while (spent := time.process_time() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = (
                2e-3 * min(1, step / 100) * (0.5 + 0.5 * math.cos(math.pi * spent / seconds))
            )
        clean = world[torch.randint(len(world), (batch,))]
        hidden = torch.rand(clean.shape) < torch.rand(batch, 1, 1)
        logits = model(clean.masked_fill(hidden, MASK))
        losses = nn.functional.cross_entropy(logits, clean, reduction="none") * hidden
        loss = (losses.sum((1, 2)) / hidden.sum((1, 2)).clamp(min=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    return model.eval(), step


@torch.no_grad()
def paint(
    model: Painter, schedule: str, steps: int, samples: int, temperature: float
) -> torch.Tensor:
    """Sample images [samples, GRID, GRID] with the loop that AmusedPipeline runs."""
    scheduler = mdm.MaskedDiffusionScheduler(mask_token_id=MASK, schedule=schedule)
    scheduler.set_timesteps(steps, (temperature, 0))
    generator = torch.Generator().manual_seed(1)
    codes = torch.full((samples, GRID, GRID), MASK)
    for t in scheduler.timesteps:
        codes = scheduler.step(model(codes), t, codes, generator=generator).prev_sample
    return codes


def score(codes: torch.Tensor, world: torch.Tensor, digits: torch.Tensor) -> dict[str, float]:
    flat, known = codes.flatten(1), world.flatten(1)
    distance, nearest = (flat[:, None] != known).sum(2).min(1)
    valid = (distance == 0).double()
    share = torch.bincount(digits[nearest], minlength=10) / len(codes)
    truth = torch.bincount(digits, minlength=10) / len(digits)
    error = math.sqrt(len(codes))
    return {
        "valid": float(valid.mean()) * 100,
        "valid_error": float(valid.std()) / error * 100,
        "wrong": float(distance.double().mean()),
        "wrong_error": float(distance.double().std()) / error,
        "digits": float(torch.special.entr(share).sum() / torch.special.entr(truth).sum()) * 100,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=150, help="CPU time of training")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 6, 12, 36])
    parser.add_argument("--schedule", action="append")
    parser.add_argument(
        "--temperature", type=float, default=2.0, help="of the position noise, cooled to 0"
    )
    parser.add_argument("--output", type=Path, default=Path("digits"))
    args = parser.parse_args()
    world, digits = draw_world()
    model, passes = train(world, args.seconds)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        f"{len(world)} pictures of {GRID} x {GRID} tokens; {passes} training steps; "
        f"{args.samples} samples per cell"
    )
    schedules = args.schedule or SCHEDULES
    results: dict[str, dict[str, dict[str, float]]] = {}
    for schedule in schedules:
        images = [
            paint(model, schedule, steps, args.samples, args.temperature) for steps in args.steps
        ]
        results[schedule] = {
            str(k): score(image, world, digits) for k, image in zip(args.steps, images, strict=True)
        }
    for key, title in (
        ("valid", "valid, percent"),
        ("wrong", "wrong tokens"),
        ("digits", "digits, percent"),
    ):
        print(f"\n{title:22}" + "".join(f"{steps:>16} steps" for steps in args.steps))
        for schedule in schedules:
            cells = [results[schedule][str(steps)] for steps in args.steps]
            errors = [
                f" ± {cell[key + '_error']:.2f}" if key + "_error" in cell else "" for cell in cells
            ]
            print(
                f"{schedule:22}"
                + "".join(f"{f'{c[key]:.2f}{e}':>22}" for c, e in zip(cells, errors, strict=True))
            )
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "digits.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
