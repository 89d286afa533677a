"""Commit rules against references written from their papers, at temperature 0, on random models.

The references work on one sequence, position by position, in float64.
"""

import math

import pytest
import torch
from families import MASK, LLaDA
from torch import nn

import mdm_schedules as mdm
from mdm_schedules.sampling import (
    DrawOptions,
    PositionCalibrated,
    get_commit,
    get_policy,
    sample,
)
from mdm_schedules.sampling.rows import READ_IN_PLACE

NEW, MODELS = 16, 4


def random_model(seed, spread=0.6):
    model = LLaDA().eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=spread, generator=generator)
    return model


def prompt(seed):
    return torch.randint(0, MASK, (2, 5), generator=torch.Generator().manual_seed(seed))


class Reference:
    """Fill one sequence block by block; `choose` says which masked positions a pass reveals.

    It is given confidences and distributions of the block's masked positions by column, and at
    least the best position is revealed.
    """

    def __init__(self, choose, block, edit=None, post=0, score=None):
        self.choose, self.block, self.edit, self.post = choose, block, edit, post
        self.score = score or (lambda p, token, offset, given: p)

    def __call__(self, model, ids):
        tokens = torch.cat([ids, torch.full((NEW,), MASK)])
        passes = 0
        for start in range(len(ids), len(tokens), self.block):
            columns = range(start, start + self.block)
            memory, after = {}, 0
            while True:
                masked = [c for c in columns if tokens[c] == MASK]
                after += not masked
                if after > self.post:
                    break
                logits = model(tokens[None]).logits[0].double()
                passes += 1
                probs = logits.softmax(1)
                logits[:, MASK] = -math.inf
                best = logits.argmax(1)
                confidence = {
                    c: self.score(float(probs[c, best[c]]), int(best[c]), c - start, ids)
                    for c in masked
                }
                edits = []
                if self.edit is not None:
                    edits = [
                        c
                        for c in columns
                        if c not in masked
                        and best[c] != tokens[c]
                        and float(probs[c, best[c]]) > self.edit
                    ]
                if masked:
                    chosen = self.choose(confidence, {c: probs[c] for c in masked}, memory)
                    # the best one, where a rule takes none
                    for c in chosen or [max(masked, key=lambda c: (confidence[c], -c))]:
                        tokens[c] = best[c]
                for c in edits:
                    tokens[c] = best[c]
                if not masked and not edits:
                    break
        return tokens, passes


def threshold(value):
    return lambda confidence, probs, memory: [c for c in confidence if confidence[c] > value]


def factor(value):
    def choose(confidence, probs, memory):
        ranked = sorted(confidence, key=confidence.get, reverse=True)
        fits = [n for n, c in enumerate(ranked, 1) if (n + 1) * (1 - confidence[c]) < value]
        return ranked[: max(fits, default=0)]

    return choose


def klass(least, kl, history):
    def choose(confidence, probs, memory):
        for c in confidence:
            before, changes = memory.get(c, (None, []))
            p = probs[c]
            if before is not None:
                changes = [*changes, float((p * (p.log() - before.log())).sum())]
            memory[c] = (p, changes)
        return [
            c
            for c in confidence
            if confidence[c] > least
            and len(memory[c][1]) >= history
            and all(change < kl for change in memory[c][1][-history:])
        ]

    return choose


def local_leap(anchor, relaxed, radius):
    def choose(confidence, probs, memory):
        anchors = [c for c in confidence if confidence[c] > anchor]
        near = {c for c in confidence for a in anchors if abs(c - a) <= radius}
        return [*anchors, *(c for c in near if confidence[c] > relaxed and c not in anchors)]

    return choose


RULES = {
    "threshold(0.5)": threshold(0.5),
    "factor(1.0)": factor(1.0),
    "factor(1.7)": factor(1.7),
    "klass(confidence=0.3, kl=0.3, history=2)": klass(0.3, 0.3, 2),
    "klass(confidence=0.2, kl=1.0, history=1)": klass(0.2, 1.0, 1),
    "local_leap(anchor=0.6, relaxed=0.3, radius=2)": local_leap(0.6, 0.3, 2),
}


@torch.no_grad()
@pytest.mark.parametrize("block", [NEW, 8])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_reveals_what_its_paper_says(rule, block):
    saved = 0
    for seed in range(MODELS):
        model, ids = random_model(seed), prompt(seed)
        out = mdm.generate(model, ids, max_new_tokens=NEW, block_length=block, commit=rule)
        for row in range(len(ids)):
            expected, passes = Reference(RULES[rule], block)(model, ids[row])
            assert torch.equal(out.sequences[row], expected)
            assert int(out.nfe_per_row[row]) == passes
            saved += NEW - passes
    assert saved > 0, "the rule never took more than the plan"


@torch.no_grad()
@pytest.mark.parametrize("post", [0, 16])
def test_editing_writes_what_llada2_1s_loop_writes(post):
    edited = 0
    for seed in range(MODELS):
        model, ids = random_model(seed), prompt(seed)
        out = mdm.generate(
            model,
            ids,
            max_new_tokens=NEW,
            block_length=8,
            commit="threshold(0.5)",
            edit_threshold=0.4,
            max_post_steps=post,
        )
        for row in range(len(ids)):
            reference = Reference(threshold(0.5), 8, edit=0.4, post=post)
            expected, passes = reference(model, ids[row])
            assert torch.equal(out.sequences[row], expected)
            assert int(out.nfe_per_row[row]) == passes
        edited += int(out.edited.sum())
    assert edited > 0


@torch.no_grad()
@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_pc_orders_by_calibrated_confidence(decay):
    frequency = torch.rand(MASK + 1, generator=torch.Generator().manual_seed(0)).double() ** 4
    frequency /= frequency.sum()

    def score(p, token, offset, ids):
        surprise = -math.log(float(frequency[token]) + 1e-9)
        return math.exp(-decay * offset) * min(p * surprise, 10.0)

    policy = PositionCalibrated(decay, background=frequency)
    for seed in range(MODELS):
        model, ids = random_model(seed), prompt(seed)
        out = mdm.generate(model, ids, max_new_tokens=NEW, block_length=8, remasking=policy)
        for row in range(len(ids)):
            expected, _ = Reference(lambda *_: [], 8, score=score)(model, ids[row])
            assert torch.equal(out.sequences[row], expected)


def dilated_groups(length, base=2):
    """The rounds of arXiv 2506.19037, eq. 8 and 9, positions from 0."""
    done, groups = set(), []
    for t in range(1, math.ceil(math.log(length, base) - 1e-9) + 1):
        step = max(1, length // base**t)
        groups.append([k for k in range(length) if k % step == 0 and k not in done])
        done |= {*groups[-1]}
    return [group for group in groups if group]


@torch.no_grad()
@pytest.mark.parametrize(("length", "base"), [(16, 2), (12, 2), (16, 4), (9, 3)])
def test_dilated_reveals_the_papers_rounds(length, base):
    policy = get_policy(f"dilated(base={base})")
    groups = dilated_groups(length, base)
    assert policy.plan(length) == [len(group) for group in groups]
    model, ids = random_model(0), prompt(0)
    history = mdm.generate(
        model,
        ids,
        max_new_tokens=length,
        remasking=policy,
        plan=policy.plan(length),
        output_history=True,
    ).history
    before = torch.full((length,), MASK)
    for group, tokens in zip(groups, history, strict=True):
        after = tokens[0, ids.shape[1] :]
        assert ((before == MASK) & (after != MASK)).nonzero().flatten().tolist() == group
        before = after


def test_dilated_counts_from_the_rows_own_first_mask():
    table = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    tokens = torch.full((2, 20), 11)
    tokens[0, :4], tokens[1, :9] = 3, 5  # 16 masks, and 11
    rounds = []
    sample(
        lambda tokens, rows: table[rows % 64],
        tokens,
        mask_token_id=11,
        plan=[[2, 2, 4, 8], [3, 4, 4, 0]],
        remasking="dilated",
        callback=lambda info: rounds.append(info.revealed[1].nonzero().flatten().tolist()),
    )
    # eleven columns from 9 on: first those five apart, then two, then the rest
    assert rounds == [[9, 14, 19], [11, 13, 15, 17], [10, 12, 16, 18], []]


def test_rules_compose_with_a_plan_which_is_the_least():
    table = torch.randn(97, 12, generator=torch.Generator().manual_seed(0)) * 3
    tokens = torch.full((1, 24), 11)
    for rule in ("threshold(1.0)", "klass(confidence=1.0)", "local_leap(1.0, 1.0)", "factor(0.01)"):
        out = sample(
            lambda tokens, rows: table[rows % 97],
            tokens,
            mask_token_id=11,
            plan=[1, 2, 3, 4, 6, 8],
            commit=get_commit(rule),
        )
        assert out.plan.tolist() == [[1, 2, 3, 4, 6, 8]]


@pytest.mark.parametrize("size", [40, READ_IN_PLACE + 700])
@pytest.mark.parametrize("mask", [3, 39])
def test_klass_compares_long_rows_as_short_ones(size, mask):
    """The logits settle from pass to pass; half of the tokens are suppressed or impossible."""
    length, generator = 12, torch.Generator().manual_seed(1)
    final, noise = torch.randn(2, 2 * length, size, generator=generator)
    final.scatter_(1, torch.randint(4, 30, (2 * length, 1), generator=generator), 14.0)
    final[:, 30:36] = -torch.inf
    suppressed = [*range(size // 2, size)] if size > 40 else [36, 37]
    passes = []

    def model(tokens, rows):
        passes.append(len(rows))
        return (final + 6 * noise * 0.5 ** len(passes))[rows]

    def reference(row):
        left, memory, tokens, done = [*range(length)], {}, {}, 0
        while left:
            done += 1
            logits = (final + 6 * noise * 0.5**done)[row * length : (row + 1) * length].double()
            logits[:, suppressed] = -torch.inf
            probs = logits.softmax(1)
            logits[:, mask] = -torch.inf
            best = logits.argmax(1)
            sure = {c: float(probs[c, best[c]]) for c in left}
            kept = (probs[0] > 0).nonzero().flatten()  # the same in all rows
            chosen = klass(0.6, 0.01, 2)(sure, {c: probs[c, kept] for c in left}, memory)
            for c in chosen or [max(left, key=lambda c: (sure[c], -c))]:
                tokens[c] = int(best[c])
                left.remove(c)
        return [tokens[c] for c in range(length)], done

    out = sample(
        model,
        torch.full((2, length), mask),
        mask_token_id=mask,
        draw=DrawOptions(suppress_tokens=suppressed),
        commit=get_commit("klass"),
    )
    for row in range(2):
        assert (out.sequences[row].tolist(), int(out.nfe_per_row[row])) == reference(row)
    assert 3 < out.nfe < length
