"""A commit rule that is learned: a small network decides from confidences what a pass reveals.

A rule is a class with `select`: it gets the scores of the masked positions and where they lie, and
answers which to reveal. Here a network of 65 parameters answers. It is taught by the model itself:
Sudokus are filled one cell a pass, and at each pass each masked cell is asked whether the digit it
would get now is the one that it got in the end. The same class runs a policy that was trained in
any other way, by reinforcement learning, say.

    python examples/learned_commit.py
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import mdm_schedules as mdm
from mdm_schedules.demo import sudoku
from mdm_schedules.demo.tasks import load, sudoku_cells, sudoku_ids
from mdm_schedules.sampling import CommitRule, Where


def features(scores: torch.Tensor) -> torch.Tensor:
    """[B, W, 3] of each masked position: log-odds, rank among the row's, and how many are left."""
    p = scores.clamp(1e-6, 1 - 1e-6).double()
    masked = scores > -torch.inf
    left = masked.sum(1, keepdim=True)
    rank = scores.argsort(1, descending=True).argsort(1) / left.clamp(min=1)
    return torch.stack([p.logit(), rank, (left / 36).expand_as(rank)], -1).float()


class LearnedCommit(CommitRule):
    """Reveal where a network says so with at least `sure`."""

    name = "learned"
    policy = "low_confidence"

    def __init__(self, network: nn.Module, sure: float = 0.97) -> None:
        self.network, self.sure = network, sure

    @torch.no_grad()
    def select(self, scores: torch.Tensor, where: Where) -> torch.Tensor:
        return torch.sigmoid(self.network(features(scores))[..., 0]) > self.sure


class Recorder(CommitRule):
    """Reveals nothing more than the plan, and notes what each pass would have drawn."""

    name = "recorder"
    policy = "low_confidence"

    def __init__(self) -> None:
        self.passes: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def watch(self, logits: torch.Tensor, probs: torch.Tensor, where: Where) -> None:
        drawn = where.remember("recorder.drawn", dtype=torch.long)
        drawn[where.row, where.offset] = probs.argmax(1)

    def select(self, scores: torch.Tensor, where: Where) -> torch.Tensor:
        drawn = where.remember("recorder.drawn", dtype=torch.long)
        inside = where.offset.clamp(0, where.width - 1)
        self.passes.append((scores.clone(), where.position.clone(), drawn.gather(1, inside)))
        return torch.zeros_like(scores, dtype=torch.bool)


def taught(model: nn.Module, ids: torch.Tensor, rounds: int) -> nn.Module:
    """A network that tells which digits would stay, from runs of one cell a pass."""
    recorder = Recorder()
    final = mdm.generate(model, ids, commit=recorder).sequences
    inputs, targets = [], []
    for scores, position, drawn in recorder.passes:
        masked = scores > -torch.inf
        inputs.append(features(scores)[masked])
        targets.append((drawn == final.gather(1, position))[masked].float())
    x, y = torch.cat(inputs), torch.cat(targets)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 13), nn.Tanh(), nn.Linear(13, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(rounds):
        loss = nn.functional.binary_cross_entropy_with_logits(network(x)[:, 0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(
        f"taught with {len(y)} decisions, of which {float(y.mean()):.0%} would stay; "
        f"loss {float(loss.detach()):.3f}"
    )
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--puzzles", type=int, default=200, help="to learn from, and to try on")
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    model, _ = load("sudoku")
    network = taught(model, sudoku_ids(sudoku.puzzles(args.puzzles, 12, 1)[0]), args.rounds)
    ids = sudoku_ids(sudoku.puzzles(args.puzzles, 12, 2)[0])
    rules = {"one cell a pass": None, "threshold(0.9)": "threshold(0.9)"}
    rules |= {f"learned, {sure}": LearnedCommit(network, sure) for sure in (0.9, 0.97, 0.99)}
    for name, rule in rules.items():
        out = mdm.generate(model, ids, commit=rule)
        valid = sudoku.is_valid(sudoku_cells(out.sequences)).mean()
        passes = out.nfe_per_row.double().mean()
        print(f"{name:16} {passes:5.1f} passes, {valid:.0%} valid")


if __name__ == "__main__":
    main()
