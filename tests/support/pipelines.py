"""Seeds, logits and a table for the tests of pipelines and schedulers."""

from pathlib import Path

import torch

import mdm_schedules as mdm

EXAMPLE = Path(__file__).parents[2] / "examples/diffusers_swap.py"
TABLE = mdm.Tabulated([0, 0.1, 0.2 + 1e-16, 0.7123456789012345, 1])
V = 32


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def logits(*shape, seed, axis=-1, mask=None, dtype=torch.float32):
    out = torch.randn(*shape, generator=seeded(seed)) * 2
    if mask is not None:
        out.movedim(axis, 0)[mask] = -1e4  # a trained model never predicts the mask
    return out.to(dtype)
