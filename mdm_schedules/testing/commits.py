"""The conformance suite for commit rules."""

from __future__ import annotations

from typing import Any

import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.sampling import ConfidencePolicy, Where, sample
from mdm_schedules.sampling.commits import CommitRule, commits
from mdm_schedules.sampling.policies import get_policy, policies
from mdm_schedules.testing.common import (
    MASK,
    VOCAB,
    check_name,
    failing_as,
    require,
    same,
    tiny_model,
    watched,
)


def check_commit_rule(rule: CommitRule, *, registered: bool = True) -> None:
    """Run the whole suite; raises AssertionError saying what is wrong.

    Args:
        rule: an instance of the rule under test.
        registered: its class is reachable by name.
    """
    require(
        isinstance(rule, CommitRule), rule, "must derive from CommitRule of mdm_schedules.sampling"
    )
    check_name(rule, commits, registered)
    names = _policies_of(rule)
    for name in names:
        _check_count(rule, name)
        _check_sampling(rule, name)
    _check_options(rule, names[0])


def _policies_of(rule: CommitRule) -> list[str]:
    """The policies whose scores the rule reads."""
    if rule.policy is None:
        return ["low_confidence", "margin", "entropy"]
    require(
        rule.policy in policies, rule, f"policy must be a name of a policy, got {rule.policy!r}"
    )
    looks = isinstance(get_policy(rule.policy), ConfidencePolicy)
    require(looks, rule, f"the policy {rule.policy!r} has no scores, since it looks at no model")
    return [rule.policy]


def _check_count(rule: CommitRule, name: str) -> None:
    policy = get_policy(name)
    assert isinstance(policy, ConfidencePolicy)
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        # From a model that knows nothing to one that is certain of everything.
        sharpness = torch.tensor([0.0, 1.0, 4.0, 40.0], dtype=torch.float64)[:, None, None]
        logits = sharpness * torch.randn(4, 6, 9, generator=generator, dtype=torch.float64)
        probs = logits.softmax(-1).flatten(0, 1).to(dtype)
        scores = policy.score(probs, probs.argmax(1)).view(4, 6)
        scores = torch.cat([scores, scores[:2], scores[:1]])
        masked = torch.tensor([6, 6, 6, 6, 4, 1, 0])  # the last rows have fewer masks, or none
        scores = scores.sort(dim=1, descending=True).values
        scores = scores.masked_fill(torch.arange(6) >= masked[:, None], -torch.inf)
        if type(rule).count is CommitRule.count:
            _check_select(rule, scores, masked)
            continue
        count = watched(rule, "count", rule.count, scores)
        _check_answer(rule, count, masked)
        require(
            same(rule.count(scores), count), rule, "count gives another answer when asked again"
        )
        for i in range(len(scores)):
            require(
                same(rule.count(scores[i : i + 1].clone()), count[i : i + 1]),
                rule,
                "the count of a row depends on the batch",
            )
        wide = torch.nn.functional.pad(scores, (0, 3), value=-torch.inf)
        require(
            same(rule.count(wide), count),
            rule,
            "the count of a row depends on how many masks other rows have (columns of -inf)",
        )


def _check_select(rule: CommitRule, scores: torch.Tensor, masked: torch.Tensor) -> None:
    """For a rule that selects positions: scores come from left to right, so they are shuffled."""
    shuffled = scores[:, torch.randperm(6, generator=torch.Generator().manual_seed(1))]
    order = (shuffled == -torch.inf).to(torch.int8).argsort(dim=1, stable=True)
    scores = shuffled.gather(1, order)

    def place(rows: slice, width: int = 6) -> Where:
        tokens = torch.full((7, width), MASK)[rows]
        return Where.whole(tokens, tokens == MASK)

    chosen = watched(rule, "select", rule.select, scores, place(slice(None)))
    given = tuple(chosen.shape) if isinstance(chosen, torch.Tensor) else type(chosen).__name__
    require(
        given == tuple(scores.shape) and chosen.dtype == torch.bool,
        rule,
        f"select must return a bool tensor {list(scores.shape)}, got {given}",
    )
    require(
        same(rule.select(scores, place(slice(None))), chosen),
        rule,
        "select gives another answer when asked again",
    )
    for i in range(len(scores)):
        alone = rule.select(scores[i : i + 1].clone(), place(slice(i, i + 1)))
        require(same(alone, chosen[i : i + 1]), rule, "the choice in a row depends on the batch")
    wide = torch.nn.functional.pad(scores, (0, 3), value=-torch.inf)
    require(
        same(
            rule.select(wide, place(slice(None), 9))[:, :6] & (scores > -torch.inf),
            chosen & (scores > -torch.inf),
        ),
        rule,
        "the choice in a row depends on how many masks other rows have (columns of -inf)",
    )


def _check_answer(rule: CommitRule, count: object, masked: torch.Tensor) -> None:
    given = tuple(count.shape) if isinstance(count, torch.Tensor) else type(count).__name__
    require(
        isinstance(count, torch.Tensor) and given == masked.shape,
        rule,
        f"count must return a tensor {list(masked.shape)}, got {given}",
    )
    assert isinstance(count, torch.Tensor)
    require(count.dtype == torch.long, rule, f"count must return a LongTensor, got {count.dtype}")
    require(bool((count >= 0).all()), rule, "count must not be negative")
    require(
        bool((count <= masked).all()),
        rule,
        f"count reveals {count.tolist()} of {masked.tolist()} masked positions; a score of -inf is "
        "none",
    )


def _check_sampling(rule: CommitRule, name: str) -> None:
    tokens = torch.full((3, 8), MASK)
    tokens[:, 0] = torch.tensor([1, 2, 3])

    def run(
        part: torch.Tensor, commit: CommitRule | None, options: dict[str, Any]
    ) -> tuple[torch.Tensor, int]:
        with failing_as(rule, "sample"):
            out = sample(
                tiny_model,
                part,
                mask_token_id=MASK,
                remasking=name,
                seed=0,
                commit=commit,
                **options,
            )
        return out.sequences, out.nfe

    # in one block, and in two, at whose second a rule that keeps something begins anew
    several: tuple[dict[str, Any], ...] = ({"steps": 7}, {"steps": [4, 4], "block_ends": [4, 8]})
    for options in several:
        filled, passes = run(tokens, rule, options)
        require(bool((filled != MASK).all()), rule, "sample leaves mask tokens")
        require(passes <= run(tokens, None, options)[1], rule, "a commit rule must not cost passes")
        require(torch.equal(run(tokens, rule, options)[0], filled), rule, "a second run differs")
        for i in range(len(tokens)):
            require(
                torch.equal(run(tokens[i : i + 1], rule, options)[0][0], filled[i]),
                rule,
                "the tokens of a row depend on the batch around it",
            )


def _check_watch(rule: CommitRule) -> None:
    """What it is shown is only read, and a few positions at a time are as good as all at once."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.full((2, 3), MASK)
    scores = torch.full((2, 3), 0.99)
    together, apart = (Where.whole(tokens, tokens == MASK) for _ in range(2))
    for _ in range(4):
        logits = 9 * torch.eye(VOCAB)[[0, 1, 2, 3, 4, 5]] + 0.01 * torch.randn(
            6, VOCAB, generator=generator
        )
        logits[:, VOCAB - 2] = -torch.inf
        probs = logits.softmax(1)
        watched(rule, "watch", rule.watch, logits, probs, together.flat())
        for i in range(6):
            one = slice(i, i + 1)
            rule.watch(logits[one].clone(), probs[one].clone(), apart.flat().part(i, i + 1))
        require(
            same(rule.select(scores, together), rule.select(scores, apart)),
            rule,
            "watch keeps something else where the positions come one at a time",
        )


def _check_options(rule: CommitRule, fitting: str) -> None:
    with failing_as(rule, f"check with remasking={fitting!r}"):
        rule.check(get_policy(fitting), 0.0)
    if rule.watches:
        _check_watch(rule)
    if rule.policy is None:
        return
    other = "margin" if rule.policy != "margin" else "entropy"
    try:
        rule.check(get_policy(other), 0.0)
    except InvalidValueError:
        return
    raise AssertionError(
        f"{rule!r}: check must raise InvalidValueError for remasking={other!r}, since it reads the "
        f"scores of {rule.policy!r}"
    )
