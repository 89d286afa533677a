"""Draws Fig. 4 of arXiv 2509.13866: the best schedule of five letters in three steps by target.

    python examples/paper/toy.py --output figures

Target A is uniform on aaaaa and bbbbb, target B on the sentences with two or three a's. The sampler
is the library's own loop with exact posteriors. Its law is enumerated and not sampled: each pair of
a case and a sentence is one row of the batch, where a case is an order of the letters (for
ancestral sampling, an assignment of letters to steps). Writes toy.png and toy.json in seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdm_schedules import InformationProfile, Schedule, get_schedule
from mdm_schedules.sampling import OrderPolicy, sample
from mdm_schedules.sampling.policies import Ancestral

STEPS = 3
SCHEDULES = ("linear", "sine", "squared_sine", "cosine", "beta(a=0.9, b=0.3)", "beta(a=0.3, b=0.9)")


def targets(n: int = 5) -> dict[str, torch.Tensor]:
    """Return the two targets as probabilities [2]*n."""
    ones = torch.tensor(list(itertools.product([0, 1], repeat=n))).sum(1).reshape([2] * n)
    support = {"A": (ones == 0) | (ones == n), "B": (ones == n // 2) | (ones == n - n // 2)}
    return {name: inside.double() / inside.sum() for name, inside in support.items()}


class Teacher:
    """A denoiser that knows the target and forces each row to its given sentence.

    It adds up the log-probability of that sentence.
    """

    def __init__(self, p: torch.Tensor, sentences: torch.Tensor) -> None:
        self.mask = p.shape[0]
        self.support, self.weights = p.nonzero(), p[p > 0]
        self.sentences, self.logp = sentences, torch.zeros(len(sentences), dtype=torch.float64)

    def __call__(self, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        row, column = rows // tokens.shape[1], rows % tokens.shape[1]
        seen = tokens[row][:, None]
        agree = ((seen == self.support) | (seen == self.mask)).all(2) * self.weights
        wanted = self.sentences[row, column]
        # posterior of the wanted letter: its share of the sentences that agree with letters seen
        hit = agree * (wanted[:, None] == self.support[:, column].T)
        self.logp.index_add_(0, row, (hit.sum(1) / agree.sum(1)).log())
        return torch.nn.functional.one_hot(wanted, self.mask).double().log()


class Ranked(OrderPolicy):
    """Row b reveals its positions by ascending rank[b]."""

    name = "ranked"

    def __init__(self, rank: torch.Tensor) -> None:
        self.rank = rank

    def score(self, row: Any, position: torch.Tensor, noise: Any, step: int = 0) -> torch.Tensor:
        return -self.rank[row, position].double()


class Timed(Ancestral):
    """Ancestral unmasking in which position i of row b has the uniform number uniform[b, i]."""

    name = "timed"

    def __init__(self, uniform: torch.Tensor) -> None:
        self.uniform = uniform

    def score(self, row: Any, position: torch.Tensor, noise: Any, step: int = 0) -> torch.Tensor:
        return 1 - self.uniform[row, position]


def _run(p: torch.Tensor, cases: int, **options: Any) -> torch.Tensor:
    """Return log P(sentence | case) [cases, sentences] of the sampling loop.

    Row case * sentences + sentence of the batch holds the pair.
    """
    sentences = p.nonzero().repeat(cases, 1)
    teacher = Teacher(p, sentences)
    out = sample(
        teacher,
        torch.full_like(sentences, teacher.mask),
        mask_token_id=teacher.mask,
        seed=0,
        **options,
    )
    assert torch.equal(out.sequences, sentences)
    return teacher.logp.reshape(cases, -1)


def divergences(p: torch.Tensor, logp: torch.Tensor, weights: torch.Tensor) -> tuple[float, float]:
    """Return two divergences KL(data || sampler) in nats.

    The first is given the case and averaged over cases; the second is of the sampler's marginal
    law.
    """
    data = p[p > 0]
    given = data.log() - weights @ logp
    marginal = data.log() - (weights @ logp.exp()).log()
    return float(data @ given), float(data @ marginal)


def random_order(p: torch.Tensor, plan: list[int]) -> tuple[float, float]:
    """Return both divergences of a plan under remasking="random", over all orders."""
    ranks = torch.tensor(list(itertools.permutations(range(p.ndim))))
    policy = Ranked(ranks.repeat_interleave(int((p > 0).sum()), 0))
    logp = _run(p, len(ranks), plan=plan, remasking=policy)
    return divergences(p, logp, torch.full((len(ranks),), 1 / len(ranks), dtype=torch.float64))


def step_laws(schedule: Schedule, n: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all ways [steps^n, n] in which n letters fall into the steps, and their probabilities.

    This is the law of ancestral sampling.
    """
    ways = torch.tensor(list(itertools.product(range(steps), repeat=n)))
    widths = schedule.alpha(torch.arange(steps + 1, dtype=torch.float64) / steps).diff()
    return ways, widths[ways].prod(1)


def ancestral(p: torch.Tensor, schedule: Schedule, steps: int) -> tuple[float, float]:
    """Return both divergences of a schedule under remasking="ancestral"."""
    ways, weights = step_laws(schedule, p.ndim, steps)
    grid = schedule.alpha(torch.arange(steps + 1, dtype=torch.float64) / steps)
    # any number between two grid values falls into that step; take the middle
    uniform = ((grid[1:] + grid[:-1]) / 2)[ways]
    policy = Timed(uniform.repeat_interleave(int((p > 0).sum()), 0))
    return divergences(
        p, _run(p, len(ways), schedule=schedule, steps=steps, remasking=policy), weights
    )


def figures(p: torch.Tensor) -> dict[str, Any]:
    """Return the figures of every plan of three steps, and of every schedule, on one target."""
    profile, n = InformationProfile.from_distribution(p), p.ndim
    rows = []
    for plan in itertools.product(range(n + 1), repeat=STEPS):
        if sum(plan) == n:
            given, marginal = random_order(p, list(plan))
            rows.append(
                {
                    "plan": plan,
                    "predicted": profile.cost(plan),
                    "enumerated": given,
                    "marginal": marginal,
                }
            )
    schedules = []
    for name in SCHEDULES:
        schedule = get_schedule(name)
        plan = schedule.plan(n, STEPS)
        # ancestral counts are random: the cost is the mean cost of the plans they make
        ways, weights = step_laws(schedule, n, STEPS)
        costs = torch.tensor(
            [profile.cost(torch.bincount(way, minlength=STEPS)) for way in ways],
            dtype=torch.float64,
        )
        schedules.append(
            {
                "schedule": name,
                "plan": plan.tolist(),
                "cost": profile.cost(plan),
                "ancestral": ancestral(p, schedule, STEPS)[0],
                "ancestral_predicted": float(weights @ costs),
            }
        )
    best = profile.optimal_plan(STEPS).tolist()
    return {
        "h": profile.h.tolist(),
        "best": best,
        "cost": profile.cost(best),
        "plans": rows,
        "schedules": schedules,
    }


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib  # needs the extra `plot`

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(11, 4.2), layout="constrained")
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        rows = result["schedules"]
        x = np.arange(len(rows))
        ax.bar(x - 0.2, [row["cost"] for row in rows], 0.38, label="fixed counts (random)")
        ax.bar(x + 0.2, [row["ancestral"] for row in rows], 0.38, label="ancestral", color="0.7")
        ax.axhline(
            result["cost"],
            color="crimson",
            label=f"best plan {result['best']}: {result['cost']:.5f}",
        )
        ax.set_xticks(
            x,
            [f"{row['schedule']}\n{row['plan']}" for row in rows],
            rotation=35,
            ha="right",
            fontsize=8,
        )
        ax.set(title=f"target {name}, {STEPS} steps", ylabel="KL(data || sampler), nats")
        ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("figures"),
        help="folder to write into (default: figures)",
    )
    options = parser.parse_args(arguments)
    results = {name: figures(p) for name, p in targets().items()}
    options.output.mkdir(parents=True, exist_ok=True)
    draw(results, options.output / "toy.png")
    numbers = {"source": "arXiv 2509.13866, Fig. 4", "steps": STEPS, "targets": results}
    (options.output / "toy.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
    for name, result in results.items():
        error = max(abs(row["predicted"] - row["enumerated"]) for row in result["plans"])
        print(f"target {name}: best plan {result['best']}, KL {result['cost']:.5f}")
        print(f"  {len(result['plans'])} plans: predicted cost = enumerated KL up to {error:.1e}")
        for row in result["schedules"]:
            print(
                f"  {row['schedule']:20} {row['plan']!s:10} KL {row['cost']:.5f}, ancestral "
                f"{row['ancestral']:.5f}"
            )
    print(f"wrote {options.output / 'toy.png'} and .json")


if __name__ == "__main__":
    main()
