"""Positions for policies and draws that are tried without a run."""

import torch

from mdm_schedules.sampling import Where


def places(rows, device="cpu"):
    """One masked position of each of so many sequences: a prompt of one token, then masks."""
    tokens = torch.arange(rows, device=device)[:, None].expand(rows, 4) % 7
    masked = torch.tensor([[False, True, True, True]], device=device).expand(rows, 4)
    position = 1 + torch.arange(rows, device=device) % 3
    one = torch.ones_like(position)
    row = torch.arange(rows, device=device)
    return Where(row, position, one, 3 * one, 0, 3, tokens, ~masked)
