"""The conformance suite for position policies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mdm_schedules.sampling import ConfidencePolicy, OrderPolicy, Where, sample
from mdm_schedules.sampling.noise import SequenceNoise
from mdm_schedules.sampling.policies import policies
from mdm_schedules.testing.common import (
    MASK,
    check_name,
    failing_as,
    require,
    same,
    tiny_model,
    watched,
)


def check_policy(
    policy: ConfidencePolicy | OrderPolicy, *, registered: bool = True, sampled: bool = True
) -> None:
    """Run the whole suite; raises AssertionError saying what is wrong.

    Args:
        policy: an instance of the policy under test.
        registered: its class is reachable by name.
        sampled: also fill the masks of a small model with it.
    """
    require(
        isinstance(policy, ConfidencePolicy | OrderPolicy),
        policy,
        "must derive from ConfidencePolicy or OrderPolicy of mdm_schedules.sampling",
    )
    check_name(policy, policies, registered)
    for flag in ("random_order", "random_counts"):
        require(isinstance(getattr(policy, flag), bool), policy, f"{flag} must be True or False")
    if isinstance(policy, ConfidencePolicy):
        _check_confidence(policy)
    else:
        _check_order(policy)
    if sampled:
        _check_sampling(policy)


def _check_scores(policy: Any, scores: Any, shape: tuple[int, ...]) -> None:
    given = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
    require(given == shape, policy, f"score must return a tensor {list(shape)}, got {given}")
    require(scores.is_floating_point(), policy, f"score must return floats, got {scores.dtype}")
    require(bool(scores.isfinite().all()), policy, "score must return finite numbers, no NaN")


def _places(rows: int) -> Where:
    """One masked position of each of so many sequences, whose prompts differ."""
    tokens = torch.full((rows, 4), MASK)
    tokens[:, 0] = torch.arange(rows) % MASK
    position = 1 + torch.arange(rows) % 3
    one = torch.ones_like(position)
    masked = tokens == MASK
    return Where(torch.arange(rows), position, one, 3 * one, 0, 3, tokens, ~masked)


def _check_confidence(policy: ConfidencePolicy) -> None:
    require(
        not policy.random_counts,
        policy,
        "random_counts is for an OrderPolicy; this looks at logits",
    )
    generator = torch.Generator().manual_seed(0)
    for rows, size, dtype in (
        (5, 7, torch.float32),
        (1, 2, torch.float64),
        (3, 3000, torch.float32),
    ):
        logits = torch.randn(rows, size, generator=generator, dtype=torch.float64) * 4
        certain = torch.eye(size, dtype=dtype)[:rows]
        level = torch.full((rows, size), 1 / size, dtype=dtype)
        where = _places(rows)
        for probs in (logits.softmax(1).to(dtype), certain, level):
            tokens = probs.argmax(1)
            scores = watched(policy, "score", policy.score_at, probs, tokens, where)
            _check_scores(policy, scores, (len(probs),))
            again = policy.score_at(probs, tokens, _places(rows))
            require(same(scores, again), policy, "score gives another answer when asked again")
            for i in range(len(probs)):
                alone = policy.score_at(
                    probs[i : i + 1].clone(), tokens[i : i + 1], _places(rows).part(i, i + 1)
                )
                require(
                    same(alone, scores[i : i + 1]),
                    policy,
                    "the score of a row depends on the batch",
                )
    if policy.token_only:
        _check_token_only(policy)


def _check_token_only(policy: ConfidencePolicy) -> None:
    probs = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.5, 0.125, 0.125, 0.25]])
    tokens, where = torch.zeros(2, dtype=torch.long), _places(1)
    where = replace(
        where, **{n: getattr(where, n).expand(2) for n in ("row", "position", "first", "length")}
    )
    asked = [policy.score_at]
    if type(policy).score is not ConfidencePolicy.score:
        # its own score would never be asked, so it must say the same
        asked.append(lambda probs, tokens, where: policy.score(probs, tokens))
    answers = {float(value) for ask in asked for value in ask(probs, tokens, where)}
    require(len(answers) == 1, policy, "token_only is True, but the score depends on other tokens")


def _check_order(policy: OrderPolicy) -> None:
    keys = torch.arange(2000) * 7919
    noise = SequenceNoise(keys)
    tokens = torch.full((2000, 4), MASK)

    def place(rows: slice, columns: slice = slice(None), step: int = 0) -> Where:
        part = tokens[rows]
        whole = Where.whole(part, torch.ones_like(part, dtype=torch.bool), step)
        return replace(whole, position=whole.position[:, columns])

    scores = watched(policy, "score", policy.score_at, place(slice(None)), noise)
    _check_scores(policy, scores, (2000, 4))
    for step in (0, 1):
        some = policy.score_at(place(slice(3), step=step), noise)
        _check_scores(policy, some, (3, 4))
        again = policy.score_at(place(slice(3), step=step), SequenceNoise(keys))
        require(same(some, again), policy, "score gives another answer when asked again")
        for i in range(3):
            alone = policy.score_at(
                place(slice(i, i + 1), step=step), SequenceNoise(keys[i : i + 1])
            )
            require(same(alone, some[i : i + 1]), policy, "the score of a row depends on the batch")
        part = policy.score_at(place(slice(3), slice(1, 3), step), noise)
        require(
            same(part, some[:, 1:3]),
            policy,
            "the score of a position depends on the others that are asked for",
        )
    if policy.random_order:
        share = scores.argmax(1).bincount(minlength=4) / len(scores)
        require(
            bool(((share - 0.25).abs() < 0.05).all()),
            policy,
            "random_order is True, but the shares in which 4 positions are first are "
            f"{share.tolist()}",
        )
    if policy.random_counts:
        require(
            bool(((scores > 0) & (scores <= 1)).all()),
            policy,
            "random_counts is True, so score must be 1 - u for a uniform number u in [0, 1)",
        )


def _check_sampling(policy: ConfidencePolicy | OrderPolicy) -> None:
    tokens = torch.full((3, 8), MASK)
    tokens[:, 0] = torch.tensor([1, 2, 3])
    options: dict[str, Any] = {
        "mask_token_id": MASK,
        "remasking": policy,
        "seed": [5, 6, 7],
    }
    for block_ends, steps, remask in ((None, 3, 0.0), ([4, 8], [2, 2], 0.0), (None, 4, 0.5)):
        options |= {"block_ends": block_ends, "steps": steps, "remask_fraction": remask}
        with failing_as(policy, "sample"):
            out = sample(tiny_model, tokens, **options)
        require(bool((out.sequences != MASK).all()), policy, "sample leaves mask tokens")
        for i, seed in enumerate(options["seed"]):
            alone = sample(
                tiny_model,
                tokens[i : i + 1],
                **options | {"seed": [seed]},
            )
            require(
                torch.equal(alone.sequences[0], out.sequences[i]),
                policy,
                "the tokens of a row depend on the batch around it",
            )
