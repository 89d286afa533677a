"""Small cases worked out by hand: what a rule says at its edge, and one step to either side."""

import math
from dataclasses import FrozenInstanceError

import pytest
import torch

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError
from mdm_schedules.plan import check_plan
from mdm_schedules.sampling import get_policy, sample
from mdm_schedules.sampling.commits import (
    CommitRule,
    EntropyBound,
    Factor,
    LocalLeap,
    Threshold,
    choose_commit,
    get_commit,
)
from mdm_schedules.sampling.draw import DrawOptions
from mdm_schedules.sampling.noise import (
    POSITION,
    REMASK,
    TOKEN,
    RowSeeds,
    SequenceNoise,
    check_seed,
)
from mdm_schedules.sampling.quotas import (
    ancestral_tables,
    block_spans,
    count_tables,
    split_steps,
    steps_per_block,
)
from mdm_schedules.sampling.where import Where

NOTHING = -math.inf


# --- commit rules


def test_a_threshold_takes_what_is_above_it_and_not_what_equals_it():
    scores = torch.tensor([[0.75, 0.5, 0.25, NOTHING], [0.5, 0.5, 0.5, 0.5]])
    assert Threshold(0.5).count(scores).tolist() == [1, 0]
    assert Threshold(0.4).count(scores).tolist() == [2, 4]
    assert Threshold(0).count(scores).tolist() == [3, 4]
    assert Threshold(1).count(torch.ones(1, 3)).tolist() == [0]


def test_an_entropy_bound_sums_all_but_the_largest():
    # before each: 0, 1, 3, 7 nats; the last column holds no mask
    scores = -torch.tensor([[1.0, 2.0, 4.0, 8.0, math.inf]])
    for bound, count in ((0, 1), (0.999, 1), (1, 2), (2.999, 2), (3, 3), (6, 3), (7, 4), (99, 4)):
        assert EntropyBound(bound).count(scores).tolist() == [count], bound
    # certain tokens cost nothing; an entropy below zero is one that rounding spoiled
    assert EntropyBound(0).count(torch.tensor([[1e-9, 0.0, 0.0, -3.0]])).tolist() == [4]
    assert EntropyBound(0).count(torch.tensor([[0.5, -0.4, -0.1]])).tolist() == [2]
    assert EntropyBound(0).count(torch.full((2, 3), NOTHING)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("make", "allowed", "refused"),
    [
        (Threshold, (0, 1, 0.5), (-1e-9, 1 + 1e-9)),
        (EntropyBound, (0, 0.5, 50), (-1e-9, math.inf)),
        (Factor, (1e-9, 1, 50), (0, -1e-9, math.inf)),
    ],
)
def test_the_range_of_a_commit_rule_includes_its_ends(make, allowed, refused):
    for value in allowed:
        rule = make(value)
        with pytest.raises(FrozenInstanceError):
            setattr(rule, rule.name, 0.3)
    for value in refused:
        with pytest.raises(InvalidValueError, match=make.name):
            make(value)


def test_one_commit_rule_is_chosen():
    assert choose_commit(None, None, None) is None
    assert choose_commit(None, 0.0, None) == Threshold(0.0)
    assert choose_commit(None, None, 0.0) == EntropyBound(0.0)
    rule = Threshold(0.3)
    assert choose_commit(rule, None, None) is rule
    assert choose_commit("entropy_bound(0.5)", None, None) == EntropyBound(0.5)
    for given in ((rule, 0.5, None), (rule, None, 1.0), (None, 0.5, 1.0)):
        with pytest.raises(InvalidValueError, match="one commit rule, got threshold and"):
            choose_commit(*given)
    with pytest.raises(InvalidTypeError, match=r"'threshold\(0.9\)', got 0.9"):
        get_commit(0.9)
    low, entropy = get_policy("low_confidence"), get_policy("entropy")
    rule.check(low, 0.0)
    with pytest.raises(InvalidValueError, match="needs remasking='low_confidence', got 'entropy'"):
        rule.check(entropy, 0.0)
    with pytest.raises(InvalidValueError, match="threshold or remask_fraction, not both"):
        rule.check(low, 0.1)


def test_rules_that_choose_nothing_are_refused():
    class Idle(CommitRule):
        name = "idle"

    with pytest.raises(InvalidValueError, match="Idle needs count or select"):
        Idle().check(get_policy("low_confidence"), 0.0)


def test_a_factor_of_one_asks_for_a_half_of_one_token_and_three_quarters_of_three():
    scores = torch.tensor([[0.5, 0.5, 0.5], [0.51, 0.5, 0.5], [0.76, 0.76, 0.76], [1.0, 1.0, 0.7]])
    assert Factor().count(scores).tolist() == [0, 1, 3, 2]


def line(width):
    """A row of masks that are one block."""
    tokens = torch.full((1, width), 5)
    return Where.whole(tokens, tokens == 5)


def test_a_leap_reaches_its_radius_whatever_the_cells_without_a_score_hold():
    assert LocalLeap(radius=1 << 20).radius == 1 << 20
    with pytest.raises(InvalidValueError, match="radius"):
        LocalLeap(radius=(1 << 20) + 1)
    sure, near = 0.95, 0.8
    scores = torch.tensor([[near, near, sure, near, 0.7, NOTHING]])
    for place in (0, 5, 6, 99):  # the last cell is no mask: any place, also one past the block
        where = line(6)
        where.position[0, -1] = place
        chosen = LocalLeap(radius=1).select(scores, where)
        assert chosen.tolist() == [[False, True, True, True, False, False]], place


def test_a_rule_is_shown_each_part_with_its_own_rows():
    seen = []

    class Watching(CommitRule):
        name = "watching"

        def watch(self, logits, probs, where):
            seen.append((logits[:, 0].tolist(), probs[:, 0].tolist(), where.position.tolist()))

    logits = torch.arange(5.0)[:, None]
    Watching().watch_parts(logits.split([2, 3]), logits + 10, line(5).flat())
    assert seen == [([0, 1], [10, 11], [0, 1]), ([2, 3, 4], [12, 13, 14], [2, 3, 4])]


@pytest.mark.parametrize(
    "wrong", [[1.0, 2.0], [True, False], [1], [1, 2, 3], [[1], [2]], 1], ids=str
)
def test_a_count_that_is_no_integer_for_each_row_is_refused(wrong):
    class Counting(CommitRule):
        name = "counting"

        def count(self, scores):
            return torch.tensor(wrong)

    with pytest.raises(InvalidTypeError, match=r"'counting' \(Counting\) .* integers \[2\]"):
        Counting().select(torch.zeros(2, 3), line(3))


# --- policies


def test_what_the_policies_score():
    probs = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    tokens = torch.tensor([1, 1])
    assert get_policy("low_confidence").score(probs, tokens).tolist() == [0.25, 1.0]
    assert get_policy("margin").score(probs, tokens).tolist() == [0.25, 1.0]
    assert get_policy("margin").score(probs[:, 1:2], tokens * 0).tolist() == [0.25, 1.0]
    entropy = get_policy("entropy").score(probs, tokens).tolist()
    assert entropy == pytest.approx([-1.75 * math.log(2), 0], abs=1e-15)
    position = torch.tensor([[0, 1, 5]])
    assert get_policy("left_to_right").score(None, position, None).tolist() == [[0, -1, -5]]


# --- how many tokens


def even(tokens, rows):
    """A denoiser without a preference."""
    return torch.zeros(len(rows), 6)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda logits: logits[..., :0], r"\(5, 0\)"),
        (lambda logits: logits.to("meta"), "on the meta device"),
        (lambda logits: logits.to_sparse(), "sparse"),
        (lambda logits: logits.long(), r"\(5, 6\)"),
        (lambda logits: logits.numpy(), "ndarray"),
    ],
)
def test_logits_that_cannot_be_read_are_named(spoil, said):
    def model(tokens):
        return spoil(torch.zeros(*tokens.shape, 6))

    with pytest.raises(MDMError, match=said):
        mdm.generate(model, torch.tensor([[1]]), max_new_tokens=4, steps=2, mask_token_id=5)


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_the_remasked_count_is_the_rounded_share_of_what_is_filled(remasking):
    """A quarter of d tokens, halves up, and never more than the masks that would else be left."""
    masks = torch.full((1, 10), 5)
    out = sample(
        even, masks, mask_token_id=5, plan=[1] * 10, remasking=remasking, remask_fraction=0.25
    )
    assert out.drawn.tolist() == [[1, 1, 2, 2, 2, 2, 3, 3, 2, 1]]
    assert out.plan.tolist() == [[1] * 10]
    out = sample(even, masks, mask_token_id=5, plan=[4, 4, 2], remask_fraction=1.0)
    assert out.drawn.tolist() == [[4, 6, 2]]


def test_every_pass_of_every_block_has_noise_of_its_own(monkeypatch):
    asked, uniform = [], SequenceNoise.uniform

    def note(self, stream, step, row, position):
        asked.append((stream, step))
        return uniform(self, stream, step, row, position)

    monkeypatch.setattr(SequenceNoise, "uniform", note)
    options = {"draw": DrawOptions(temperature=1.0), "remask_fraction": 0.5, "seed": 1}
    sample(
        even,
        torch.full((1, 8), 5),
        mask_token_id=5,
        steps=[3, 2],
        block_ends=[4, 8],
        remasking="random",
        **options,
    )
    tokens = [step for stream, step in asked if stream == TOKEN]
    assert tokens == [0, 1, 2, 1 << 32, (1 << 32) + 1]
    # what is masked again, where something is: by the number of the pass as well
    assert {step for stream, step in asked if stream == REMASK} <= set(tokens)
    # the order is drawn anew for the pass that follows; the policy is tried once beforehand
    order = [step for stream, step in asked if stream == POSITION]
    assert order == [0, 0, 1, 2, 3, 0, (1 << 32) + 1, (1 << 32) + 2]


def test_millions_of_steps_are_one_pass_per_token():
    for remasking in ("low_confidence", "ancestral"):
        out = sample(
            even, torch.full((2, 4), 5), mask_token_id=5, steps=2**20, remasking=remasking, seed=1
        )
        assert out.plan.sum(1).tolist() == [4, 4]
        assert out.nfe <= 8


def test_ancestral_counts_are_those_of_each_positions_own_number():
    policy, schedule = get_policy("ancestral"), mdm.SquaredSine()
    tokens, real = torch.full((3, 7), 5), torch.ones(3, 7, dtype=torch.bool)
    noise = RowSeeds(check_seed([1, 2, 3], 3), tokens, real, distinct=False).noise
    position = torch.arange(7).expand(3, 7)
    number = noise.uniform(POSITION, 0, torch.arange(3)[:, None], position)
    masked = real.clone()
    masked[0, :3] = masked[1, :2] = False  # no mask in the first block, and one, of number 0.6
    spans, counts = [(0, 3), (3, 7)], torch.tensor([[0, 4], [1, 4], [3, 4]])
    for steps in ([2, 5], None):
        tables = ancestral_tables(schedule, steps, policy, masked, position, spans, counts, noise)
        for (start, end), table, count in zip(spans, tables, counts.unbind(1), strict=True):
            for row in range(3):
                own = table.shape[1] if steps else max(1, int(count[row]))
                alpha = [float(schedule.alpha(k / own)) for k in range(own + 1)]
                expected = [0] * table.shape[1]
                for place in range(start, end):
                    u = float(number[row, place])
                    if masked[row, place]:
                        expected[sum(value <= u for value in alpha[1:])] += 1
                assert table[row].tolist() == expected


def test_passes_are_shared_among_blocks():
    assert split_steps(7, [4, 3]) == [4, 3]
    assert split_steps(4, [4, 0, 4]) == [2, 1, 2]
    assert split_steps(2, [100, 1]) == [1, 1]
    assert split_steps(3, [5, 5]) == [2, 1]
    assert split_steps(1, [0, 3]) == [1, 1]
    with pytest.raises(InvalidValueError, match="number of blocks, 2, got 1"):
        split_steps(1, [2, 0, 2])
    counts = torch.tensor([[2, 0], [5, 0]])
    assert steps_per_block(None, counts) == [5, 1]
    assert steps_per_block([3, 1], counts) == [3, 1]
    assert steps_per_block(4, counts[:, :1]) == [4]
    for wrong in (4, [4], [4, 1, 1], "42"):
        with pytest.raises(InvalidValueError, match="one number for each of the 2 blocks"):
            steps_per_block(wrong, counts)
    assert steps_per_block([1] * 1000, torch.ones(1, 1000)) == [1] * 1000
    assert block_spans([500, 1000], len(range(1000))) == [(0, 500), (500, 1000)]
    assert block_spans(None, 4) == [(0, 4)]
    assert block_spans([1, 4], 4) == [(0, 1), (1, 4)]
    for wrong in ([], [3], [4, 4], [2, 1, 4], [0, 4], [5]):
        with pytest.raises(InvalidValueError, match="must increase to the sequence length 4"):
            block_spans(wrong, 4)


def test_a_plan_replaces_a_schedule_and_its_steps():
    counts, linear = torch.tensor([[4], [2]]), mdm.Linear()
    low, ancestral = get_policy("low_confidence"), get_policy("ancestral")
    (table,) = count_tables(linear, None, counts, 2, low)
    assert table.tolist() == [[2, 2], [1, 1]]
    (table,) = count_tables(linear, [[3, 1], [0, 2]], counts, None, low)
    assert table.tolist() == [[3, 1], [0, 2]]
    with pytest.raises(InvalidValueError, match="give a plan or steps, not both"):
        count_tables(linear, [[3, 1], [0, 2]], counts, 2, low)
    with pytest.raises(InvalidValueError, match="plan or remasking='ancestral', whose counts are"):
        count_tables(linear, [[3, 1], [0, 2]], counts, None, ancestral)


def test_a_plan_that_wraps_around_is_no_plan():
    big = 2**63 - 1
    for plan, count in (([big, big, 3], 1), ([3, -1], 2), ([3], 2), ([1], 2), ([2, 1], 2)):
        with pytest.raises(InvalidValueError, match="plan must"):
            check_plan(plan, torch.tensor([count]))
    assert check_plan([0, 0], torch.tensor([0])).tolist() == [[0, 0]]
    assert check_plan([2], torch.tensor([2, 2])).tolist() == [[2], [2]]
    with pytest.raises(InvalidValueError, match="row 1 sums to 2, but 3 tokens are masked"):
        check_plan([1, 1], torch.tensor([2, 3]))


def test_counts_out_of_range_are_named():
    linear, most = mdm.Linear(), 2**52
    with pytest.raises(InvalidValueError, match=r"in \[0, 4503599627370496\], got -1"):
        linear.plan(num_tokens=-1, steps=2)
    with pytest.raises(InvalidValueError, match="must be >= 0, got -1"):
        linear.plan(num_tokens=torch.tensor([2, -1, 5]), steps=2)
    with pytest.raises(InvalidValueError, match=f"at most {most}, got {most + 1}"):
        linear.plan(num_tokens=torch.tensor([3, most + 1, 5]), steps=2)
    many = torch.full((300,), 2)
    assert check_plan([[1, 1]] * 300, many).shape == (300, 2)
    with pytest.raises(InvalidValueError, match=r"must be \[steps\] or \[300, steps\]"):
        check_plan([[1, 1]] * 299, many)


# --- what the loop says of a run


def ask(tokens, rows):
    """A model that is sure of token 5, of eight."""
    return 4.0 * torch.nn.functional.one_hot(torch.full((len(rows),), 5), 8)


def test_a_run_without_masks_spends_no_pass_and_says_so():
    out = sample(ask, torch.tensor([[2, 3]]), mask_token_id=7, steps=4)
    assert (out.nfe, tuple(out.plan.shape), tuple(out.drawn.shape)) == (0, (1, 0), (1, 0))


def test_the_bar_counts_the_passes_of_all_blocks_and_is_silent_unless_asked(capsys):
    tokens = torch.full((2, 6), 7)
    tokens[0, 4:] = 1  # one row has nothing in the second block
    options = {"mask_token_id": 7, "block_ends": [4, 6], "steps": [4, 2]}
    sample(ask, tokens, **options)
    assert capsys.readouterr().err == ""
    out = sample(ask, tokens, progress=True, **options)
    assert out.nfe == 6
    assert "6/6" in capsys.readouterr().err


def test_the_bar_leaves_out_steps_without_a_pass_and_counts_those_that_mask_again(capsys):
    tokens = torch.full((1, 6), 7)
    assert sample(ask, tokens, mask_token_id=7, plan=[[3, 0, 3]], progress=True).nfe == 2
    assert "2/2" in capsys.readouterr().err
    options = {"steps": 8, "remask_fraction": "loop(0.3, start=0.3, stop=0.8)"}
    out = sample(ask, torch.full((1, 12), 7), mask_token_id=7, progress=True, **options)
    assert out.nfe > 6
    assert f"{out.nfe}/{out.nfe}" in capsys.readouterr().err


def test_edges_of_the_loops_own_options():
    tokens = torch.full((1, 4), 7)
    for name in ("edit_threshold", "revoke_threshold"):
        for value in (0, 1):
            assert sample(ask, tokens, mask_token_id=7, **{name: value}).sequences.tolist()
        with pytest.raises(InvalidValueError, match=f"{name} must be"):
            sample(ask, tokens, mask_token_id=7, **{name: 1.01})
    assert sample(ask, tokens, mask_token_id=7, eos_token_ids=[0]).sequences.tolist() == [[5] * 4]
    # one of the two is enough to look at what is filled
    assert sample(ask, tokens, mask_token_id=7, edit_threshold=0.9).edited is not None
    with pytest.raises(InvalidValueError, match="mask_token_id must be"):
        sample(ask, tokens, mask_token_id=-1)
    for wrong in (torch.full((4,), 7), torch.full((1, 2, 2), 7)):
        with pytest.raises(InvalidTypeError, match="LongTensor"):
            sample(ask, wrong, mask_token_id=7)
    with pytest.raises(TypeError, match="positional"):
        sample(ask, tokens, 7)
