"""The draw alone: probabilities with the mask counted in, whatever its logit, and what the host
has to wait for.
"""

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from places import places
from scipy.stats import chi2
from torch.utils._python_dispatch import TorchDispatchMode

from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.sampling import DrawOptions, get_commit, get_policy, policies, sample
from mdm_schedules.sampling.draw import TokenDraw
from mdm_schedules.sampling.exact import filtered
from mdm_schedules.sampling.segments import SEGMENT

ROWS, SIZES = 9, [7, SEGMENT, 3 * SEGMENT, 3 * SEGMENT + 5]


def draw(logits, mask, options, policy="low_confidence", index=None, seed=0):
    rows = len(logits) if index is None else len(index)
    uniform = torch.rand(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    uniform = uniform if options.temperature else None
    return TokenDraw(options, get_policy(policy), mask)(
        logits, index, uniform, lambda i, j: torch.zeros(j - i, 1), places(rows)
    )


@pytest.mark.parametrize("index", [None, [0, 1, 2, 5, 8, 7, 3]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("vocabulary", SIZES)
@pytest.mark.parametrize("suppressed", [[], [1, 3]])
def test_low_confidence_is_the_softmax_with_the_mask_counted_in(
    index, dtype, temperature, vocabulary, suppressed
):
    logits = (torch.randn(ROWS, vocabulary, generator=torch.Generator().manual_seed(1)) * 2).to(
        dtype
    )
    kept, mask = logits.clone(), vocabulary // 2
    index = None if index is None else torch.tensor(index)
    tokens, score, usable = draw(
        logits, mask, DrawOptions(temperature, suppress_tokens=suppressed), index=index
    )
    wanted = (
        (logits if index is None else logits[index])
        .double()
        .index_fill(1, torch.tensor(suppressed).long(), -torch.inf)
    )
    probs = wanted.softmax(1)
    assert usable.all()
    assert not torch.isin(tokens, torch.tensor([mask, *suppressed])).any()
    if temperature == 0:
        wanted[:, mask] = -torch.inf
        assert torch.equal(tokens, wanted.argmax(1))
    precise = dtype == torch.float64
    expected = probs.gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(score.double(), expected, rtol=1e-12 if precise else 2e-6, atol=0)
    assert score.dtype == (torch.float64 if precise else torch.float32)
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("above", [30.0, 100.0, 1e4])
@pytest.mark.parametrize("vocabulary", SIZES)
def test_a_mask_far_above_the_rest_changes_neither_the_draw_nor_the_order(
    temperature, above, vocabulary
):
    logits = torch.randn(ROWS, vocabulary, generator=torch.Generator().manual_seed(2))
    mask = vocabulary - 2
    logits[:, mask] = logits.max() + above
    # an ordinary row among them
    logits[4] = torch.randn(vocabulary, generator=torch.Generator().manual_seed(3))
    without = logits.clone()
    without[:, mask] = -torch.inf
    options = DrawOptions(temperature)
    tokens, score, usable = draw(logits, mask, options)
    assert usable.all()
    assert torch.equal(tokens, draw(without, mask, options)[0])
    expected = logits.double().log_softmax(1).gather(1, tokens[:, None])[:, 0]
    assert torch.equal(score.argsort(), expected.argsort())


@pytest.mark.parametrize("vocabulary", [7, 3 * SEGMENT + 5, 40 * SEGMENT])
def test_the_largest_logit_wins_by_its_last_bit_and_the_first_of_equals(vocabulary):
    logits = torch.rand(ROWS, vocabulary, generator=torch.Generator().manual_seed(6))
    for row, top in enumerate(logits):
        top[row % 3], top[vocabulary - 3 - row % 2] = 2.0, 2.0 if row % 2 else 2.0 + 2**-22
        top[vocabulary - 2] = top[vocabulary - 3]
    logits[-1] = 0  # every token is the best
    tokens, *_ = draw(logits, vocabulary - 1, DrawOptions())
    assert torch.equal(tokens, logits[:, :-1].argmax(1))
    assert tokens[0] > 2
    assert tokens[1] == 1
    logits = torch.randn(ROWS, vocabulary, generator=torch.Generator().manual_seed(10))
    logits[:, -1] = 1e9  # beside the mask all log-probabilities are the same float32
    assert torch.equal(draw(logits, vocabulary - 1, DrawOptions())[0], logits[:, :-1].argmax(1))


@pytest.mark.parametrize("policy", ["low_confidence", "margin", "entropy"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_read_alone_as_in_any_company_to_the_last_bit(dtype, temperature, policy):
    rows, mask = 64, 19_000
    logits = torch.randn(rows, 20_003, generator=torch.Generator().manual_seed(7)).to(dtype)
    logits[::5, mask] = 60  # these are drawn by another way
    uniform = torch.rand(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(8))

    def read(index):
        reader = TokenDraw(DrawOptions(temperature), get_policy(policy), mask)
        numbers = uniform if temperature else None
        some = None if numbers is None else numbers if index is None else numbers[index]
        return reader(logits, index, some, lambda i, j: torch.zeros(j - i, 1))[:2]

    tokens, score = read(None)
    shuffled = torch.randperm(rows, generator=torch.Generator().manual_seed(9))
    for index in (shuffled, *torch.arange(rows).split(1)):
        again, confidence = read(index)
        assert torch.equal(again, tokens[index])
        assert torch.equal(confidence, score[index])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("index", [None, [5, 2, 2], []])
def test_the_probability_of_given_tokens_counts_the_mask_but_no_suppressed_token(dtype, index):
    logits = torch.randn(ROWS, 9, generator=torch.Generator().manual_seed(13)).to(dtype)
    index = None if index is None else torch.tensor(index, dtype=torch.long)
    wanted = (logits if index is None else logits[index]).double()
    wanted[:, 1] = -torch.inf
    tokens = torch.arange(len(wanted)) % 7 + 2  # up to the mask, 8
    reader = TokenDraw(DrawOptions(suppress_tokens=[1]), get_policy("low_confidence"), 8)
    found = reader.probability(logits, index, tokens, lambda i, j: None)
    expected = wanted.softmax(1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("policy", policies.names())
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_odd_rows(temperature, policy):
    empty = torch.zeros(0, dtype=torch.long)
    assert len(draw(torch.randn(4, 9), 8, DrawOptions(temperature), policy, empty)[0]) == 0
    logits = torch.zeros(5, 9)
    logits[0, 8], logits[1, 8], logits[2, 3], logits[3] = (
        torch.nan,
        torch.inf,
        torch.nan,
        -torch.inf,
    )
    assert draw(logits, 8, DrawOptions(temperature), policy)[2].tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("temperature", [1e-300, 1e-46, 1e39, 1e300])
def test_temperatures_beyond_float32(temperature):
    logits = torch.randn(ROWS, 9, generator=torch.Generator().manual_seed(11))
    tokens, _, usable = draw(logits, 8, DrawOptions(temperature))
    assert usable.all()
    assert temperature > 1 or torch.equal(tokens, logits[:, :8].argmax(1))


def test_top_p_keeps_the_smallest_set_that_has_at_least_this_probability():
    probs = torch.tensor([0.5, 0.25, 0.125, 0.125, 0], dtype=torch.float64)
    logits = (probs.log2() * math.log(2)).repeat(64, 1)
    uniform = torch.linspace(0, 1 - 2**-53, 64, dtype=torch.float64)
    for top_p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.75, 2), (0.8, 4), (1.0, 4)):
        options = DrawOptions(1.0, top_p=top_p)
        tokens, *_ = TokenDraw(options, get_policy("random"), 4)(
            logits, None, uniform, lambda i, j: None
        )
        assert tokens.unique().tolist() == list(range(kept)), top_p
        assert (filtered(logits, options)[0] > 0).sum() == kept, top_p


def test_what_a_processor_returns_is_its_own():
    own = torch.randn(ROWS, 9, generator=torch.Generator().manual_seed(12))
    kept = own.clone()
    for answer in (own, own[:1].expand(ROWS, 9), own.double()):
        options = DrawOptions(
            suppress_tokens=[1], logits_processor=lambda ids, scores, answer=answer: answer
        )
        tokens, *_ = draw(torch.zeros(ROWS, 9), 8, options)
        assert torch.equal(
            tokens, answer.float().index_fill(1, torch.tensor([1, 8]), -torch.inf).argmax(1)
        )
    assert torch.equal(own, kept)


@pytest.mark.parametrize("name", ["margin", "entropy"])
def test_other_policies_see_the_masks_probability(name):
    logits = torch.randn(ROWS, 40, generator=torch.Generator().manual_seed(4))
    probs = logits.softmax(1)
    tokens, score, _ = draw(logits, 39, DrawOptions(), name)
    assert torch.equal(tokens, logits[:, :39].argmax(1))
    torch.testing.assert_close(score, get_policy(name).score(probs, tokens))


@pytest.mark.parametrize(("draws", "lift"), [(100_000, 0.0), (5_000, 200.0)])
@pytest.mark.slow
def test_draws_from_a_vocabulary_of_126_464_follow_the_softmax(draws, lift):
    size, mask = 126_464, 77_000
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(0)) * 2
    logits[0, mask] += lift
    index = torch.zeros(draws, dtype=torch.long)
    tokens = torch.cat(
        [
            draw(logits, mask, DrawOptions(1.0), "random", part, int(k))[0]
            for k, part in enumerate(index.split(1000))
        ]
    )
    probs = logits[0].double().index_fill(0, torch.tensor([mask]), -torch.inf).softmax(0)
    rank = probs.argsort()
    bins = torch.empty(size, dtype=torch.long)
    # a hundred of nearly equal mass
    bins[rank] = (probs[rank].cumsum(0) * 100).long().clamp(max=99)
    expected = torch.zeros(100, dtype=torch.float64).index_add_(0, bins, probs) * draws
    seen = bins[tokens].bincount(minlength=100)
    assert float(((seen - expected) ** 2 / expected).sum()) < chi2.isf(1e-3, 99)


class HostReads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("policy", policies.names())
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_reads_of_the_device_do_not_grow_with_the_steps(policy, temperature):
    table = torch.randn(64, 50, generator=torch.Generator().manual_seed(5))
    counts = []
    for steps in (8, 64):
        with HostReads() as reads:
            sample(
                lambda tokens, rows: table[rows % 64],
                torch.full((2, 64), 49),
                mask_token_id=49,
                steps=steps,
                remasking=policy,
                draw=DrawOptions(temperature),
                seed=0,
            )
        counts.append(reads.count)
    assert counts[0] == counts[1] <= 8  # the plan, and one look at the end


# --- rules that watch every distribution must not change what is drawn


@pytest.mark.parametrize("mask", [SEGMENT + 3, 2, 3 * SEGMENT + 5])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_rule_that_watches_and_never_commits_changes_no_token(mask, temperature):
    """The mask lies in the second segment, in the first, or outside of the vocabulary."""
    logits = torch.randn(96, 3 * SEGMENT, generator=torch.Generator().manual_seed(1))
    if mask < logits.shape[1]:
        logits[:, mask] = 12.0  # the surest of all, and never drawn
        logits[::5, mask] = 300.0  # beside which all others have no probability left

    def denoiser(tokens, rows):
        return logits[rows]

    options = {"mask_token_id": mask, "steps": 2, "seed": 3}
    options["draw"] = DrawOptions(temperature=temperature)
    tokens = torch.full((2, 48), mask)
    plain = sample(denoiser, tokens, **options)
    watched = sample(denoiser, tokens, commit=get_commit("klass(0.999, 1e-9, 3)"), **options)
    assert torch.equal(plain.sequences, watched.sequences)
    assert torch.equal(plain.plan, watched.plan)
    if not temperature:
        allowed = logits.index_fill(1, torch.tensor([min(mask, 3 * SEGMENT - 1)]), -torch.inf)
        wanted = (allowed if mask < logits.shape[1] else logits).argmax(1).view(2, 48)
        assert torch.equal(plain.sequences, wanted)


def test_options_of_the_draw_are_plain_values():
    assert DrawOptions(top_k=0).top_k == 0
    with pytest.raises(FrozenInstanceError):
        DrawOptions().top_k = 3


@pytest.mark.parametrize("returned", [None, [1.0], torch.zeros(3)])
def test_what_a_processor_returns_is_checked(returned):
    draw = DrawOptions(logits_processor=lambda ids, scores: returned)
    with pytest.raises(InvalidTypeError, match=r"logits_processor must return a tensor of shape"):
        sample(lambda t, r: torch.zeros(len(r), 8), torch.tensor([[7]]), mask_token_id=7, draw=draw)


def test_logits_of_three_axes_are_refused():
    with pytest.raises(InvalidTypeError, match=r"floating logits \[rows, vocabulary\]"):
        sample(lambda t, r: torch.zeros(1, len(r), 8), torch.tensor([[7]]), mask_token_id=7)
