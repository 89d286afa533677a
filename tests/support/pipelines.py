"""Seeds and parts for the tests of pipelines."""

from pathlib import Path

import torch

import mdm_schedules as mdm

EXAMPLE = Path(__file__).parents[2] / "examples/diffusers_swap.py"
TABLE = mdm.Tabulated([0, 0.1, 0.2 + 1e-16, 0.7123456789012345, 1])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)
