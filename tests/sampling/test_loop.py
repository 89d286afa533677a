"""The sampling loop over plain functions: counts, order, randomness, and what it must never do."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError, UnknownNameError
from mdm_schedules.sampling import DrawOptions, policies, sample
from mdm_schedules.sampling.noise import SequenceNoise
from mdm_schedules.sampling.quotas import split_steps
from mdm_schedules.sampling.segments import SEGMENT, inverse_cdf

V, MASK = 40, 39
TABLE = torch.randn(64, V, generator=torch.Generator().manual_seed(0)) * 2


def denoiser(tokens, rows):
    """Logits that depend on the position and on what is revealed in its own sequence."""
    length = tokens.shape[1]
    seen = torch.where(tokens == MASK, 0, tokens + 1).sum(1)[rows // length]
    return TABLE[(rows % length + seen) % 64]


def masks(batch, length):
    return torch.full((batch, length), MASK)


@pytest.mark.parametrize("remasking", policies.names())
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_fills_every_mask_keeps_the_prompt_and_spends_the_steps(remasking, temperature):
    tokens = masks(4, 24)
    tokens[0, :5], tokens[1, 3:19] = 3, 7
    given = tokens.clone()
    asked = []

    def counting(state, rows):
        asked.append(len(rows))
        assert (state.flatten()[rows] == MASK).all(), "logits were asked for a revealed position"
        return denoiser(state, rows)

    draw = DrawOptions(temperature=temperature)
    out = sample(
        counting, tokens, mask_token_id=MASK, steps=6, remasking=remasking, seed=1, draw=draw
    )
    assert torch.equal(tokens, given)
    assert not (out.sequences == MASK).any()
    kept = given != MASK
    assert torch.equal(out.sequences[kept], given[kept])
    assert out.nfe == len(asked)
    if remasking != "ancestral":
        assert out.nfe == 6
        assert out.nfe_per_row.tolist() == [6, 6, 6, 6]
    assert torch.equal(out.plan.sum(1), (given == MASK).sum(1))
    if remasking in ("random", "left_to_right", "ancestral"):
        assert sum(asked) == int((given == MASK).sum()), (
            "a known order needs logits of the revealed positions only"
        )


def test_more_steps_than_tokens_spends_one_pass_per_token():
    out = sample(denoiser, masks(2, 5), mask_token_id=MASK, steps=100)
    assert out.nfe == 5
    assert out.plan.tolist() == [[1] * 5] * 2


def test_left_to_right_and_history_and_callback():
    seen = []
    out = sample(
        denoiser,
        masks(1, 6),
        mask_token_id=MASK,
        plan=[1, 2, 3],
        remasking="left_to_right",
        callback=seen.append,
        output_history=True,
    )
    assert [
        (info.step, info.total, info.revealed[0].nonzero().flatten().tolist()) for info in seen
    ] == [
        (1, 3, [0]),
        (2, 3, [1, 2]),
        (3, 3, [3, 4, 5]),
    ]
    assert torch.equal(out.history[-1], out.sequences)
    seen[0].tokens.zero_()
    assert not torch.equal(out.history[0], seen[0].tokens), (
        "a callback must not be able to change the history"
    )


def reference_low_confidence(tokens, plan):
    """LLaDA's low-confidence remasking from its description: draw everywhere, keep the most
    confident.
    """
    tokens = tokens.clone()
    for count in plan:
        rows = torch.arange(tokens.numel())
        logits = denoiser(tokens, rows).clone()
        best = logits[:, :MASK].argmax(1)
        confidence = logits.softmax(1).gather(1, best[:, None])[:, 0]
        confidence[tokens.flatten() != MASK] = -torch.inf
        for position in confidence.argsort(descending=True, stable=True)[:count]:
            tokens.view(-1)[position] = best[position]
    return tokens


@pytest.mark.parametrize("spec", ["linear", "beta(a=0.9, b=0.3)", "sine"])
def test_low_confidence_equals_a_plain_reference(spec):
    tokens = masks(1, 24)
    tokens[0, 4:9] = 2
    out = sample(denoiser, tokens, mask_token_id=MASK, steps=7, schedule=spec)
    assert torch.equal(out.sequences, reference_low_confidence(tokens, out.plan[0].tolist()))


@pytest.mark.parametrize("remasking", policies.names())
def test_same_seed_same_tokens_alone_in_a_batch_reordered_and_padded(remasking):
    generator = torch.Generator().manual_seed(5)
    prompts = torch.randint(0, 30, (8, 4), generator=generator)
    tokens = torch.cat([prompts, masks(8, 12)], 1)
    options = {
        "mask_token_id": MASK,
        "steps": 5,
        "remasking": remasking,
        "draw": DrawOptions(temperature=1.0),
    }
    together = sample(denoiser, tokens, seed=7, **options).sequences
    order = torch.randperm(8, generator=generator)
    assert torch.equal(
        sample(denoiser, tokens[order], seed=7, **options).sequences, together[order]
    )
    for row in range(8):
        alone = sample(denoiser, tokens[row : row + 1], seed=[7], **options).sequences
        assert torch.equal(alone[0], together[row])

    def shifted(state, rows):  # the same model, told that two columns are padding
        inner = rows - (rows // 18 + 1) * 2
        return denoiser(state[:, 2:], inner)

    padded = torch.nn.functional.pad(tokens, (2, 0), value=0)
    own = torch.ones_like(padded, dtype=torch.bool)
    own[:, :2] = False
    again = sample(shifted, padded, seed=7, attention_mask=own, **options).sequences
    assert torch.equal(again[:, 2:], together)


def test_copies_of_a_prompt_differ_and_seeds_are_reported():
    options = {"mask_token_id": MASK, "remasking": "random", "draw": DrawOptions(temperature=1.0)}
    out = sample(denoiser, masks(16, 20), seed=3, **options)
    assert len(out.sequences.unique(dim=0)) == 16
    assert torch.equal(
        sample(denoiser, masks(1, 20), seed=3, **options).sequences[0], out.sequences[0]
    )
    fresh = sample(denoiser, masks(2, 20), **options)
    again = sample(denoiser, masks(2, 20), seed=fresh.seeds[0], **options)
    assert torch.equal(fresh.sequences, again.sequences)
    equal = sample(denoiser, masks(2, 20), seed=[4, 4], **options).sequences
    assert torch.equal(equal[0], equal[1])


def test_with_a_seed_global_generators_are_untouched():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    sample(
        denoiser,
        masks(2, 9),
        mask_token_id=MASK,
        remasking="random",
        draw=DrawOptions(temperature=1.0),
        seed=3,
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_mask_is_never_drawn_and_logits_are_never_written():
    loves_mask = torch.zeros(12, V)
    loves_mask[:, MASK] = 50.0
    kept = loves_mask.clone()
    for temperature in (0.0, 1.0, 0.3):
        out = sample(
            lambda state, rows: (loves_mask, rows),
            masks(1, 12),
            mask_token_id=MASK,
            draw=DrawOptions(temperature=temperature, suppress_tokens=[0, 1]),
            seed=0,
        )
        assert not torch.isin(out.sequences, torch.tensor([MASK, 0, 1])).any()
    assert torch.equal(loves_mask, kept)


LAW = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) ** 2
LAW /= LAW.sum()


def conditionals(known):
    """P(token | known tokens) of LAW for each other position; `known` maps positions to tokens."""
    part = LAW
    for axis, token in known.items():
        part = part.index_select(axis, torch.tensor([token]))
    weights = [part.sum(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return [None if axis in known else weight / weight.sum() for axis, weight in enumerate(weights)]


def ancestral_law():
    """What independent unmasking in two steps, half of it each, makes of LAW: all subsets that the
    first may reveal.
    """
    law = torch.zeros(3, 3, 3, dtype=torch.float64)
    for sentence in itertools.product(range(3), repeat=3):
        for first in itertools.chain.from_iterable(
            itertools.combinations(range(3), k) for k in range(4)
        ):
            alone, rest = conditionals({}), conditionals({axis: sentence[axis] for axis in first})
            factors = [
                alone[i][sentence[i]] if i in first else rest[i][sentence[i]] for i in range(3)
            ]
            law[sentence] += torch.stack(factors).prod() / 2**3
    return law


@pytest.mark.slow
@pytest.mark.parametrize("remasking", ["random", "left_to_right", "ancestral"])
def test_the_sampled_law_is_the_enumerated_one(remasking):
    """Exact conditionals of a law over {0, 1, 2}^3 in float32, 100,000 draws: chi-square."""
    draws = 100_000
    law = ancestral_law() if remasking == "ancestral" else LAW
    tables = torch.full((64, 3, 4), -torch.inf)
    for state in itertools.product(range(4), repeat=3):
        code = state[0] * 16 + state[1] * 4 + state[2]
        for axis, table in enumerate(
            conditionals({axis: token for axis, token in enumerate(state) if token != 3})
        ):
            if table is not None:
                tables[code, axis, :3] = table.log().float()

    out = sample(
        lambda state, rows: tables[(state @ torch.tensor([16, 4, 1]))[rows // 3], rows % 3],
        torch.full((draws, 3), 3),
        mask_token_id=3,
        steps=2 if remasking == "ancestral" else 3,
        remasking=remasking,
        draw=DrawOptions(temperature=1.0),
        seed=11,
    )
    counts = (out.sequences @ torch.tensor([9, 3, 1])).bincount(minlength=27)
    expected = law.flatten() * draws
    # 26 degrees of freedom, 0.999 quantile
    assert float(((counts - expected) ** 2 / expected).sum()) < 54.05


@pytest.mark.parametrize("remasking", ["random", "low_confidence"])
def test_a_vocabulary_of_126_464_loses_no_tail(remasking):
    """Half of the mass lies on tokens of less than 1e-4; noise of low precision would never reach
    them.
    """
    from scipy.stats import chi2

    size, draws = 126_464, 3000
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(0)) * 2
    probs = logits.double().softmax(1)[0]
    probs[-1] = 0  # the mask
    out = sample(
        lambda tokens, rows: (logits, torch.zeros(len(rows), dtype=torch.long)),
        torch.full((draws // 10, 10), size - 1),
        mask_token_id=size - 1,
        steps=1,
        remasking=remasking,
        draw=DrawOptions(temperature=1.0),
        seed=0,
    )
    rank = probs.argsort()
    share = (probs[rank] / probs.sum()).cumsum(0)
    bins = torch.empty(size, dtype=torch.long)
    bins[rank] = (share * 50).long().clamp(max=49)  # fifty of nearly equal mass, by falling rarity
    expected = torch.zeros(50, dtype=torch.float64).index_add_(0, bins, probs / probs.sum()) * draws
    seen = bins[out.sequences.flatten()].bincount(minlength=50)
    assert float(((seen - expected) ** 2 / expected).sum()) < chi2.isf(1e-3, 49)


def test_ancestral_counts_are_binomial_with_the_schedules_mean():
    out = sample(
        lambda state, rows: torch.zeros(len(rows), V),
        masks(4000, 10),
        mask_token_id=MASK,
        steps=4,
        schedule="squared_sine",
        remasking="ancestral",
        draw=DrawOptions(temperature=1.0),
        seed=0,
    )
    alpha = torch.sin(torch.pi / 2 * torch.arange(5, dtype=torch.float64) / 4) ** 2
    share = alpha.diff()
    error = (share * (1 - share) * 10 / 4000).sqrt()
    assert ((out.plan.double().mean(0) - 10 * share).abs() < 4 * error).all()
    assert ((out.plan.double().var(0) / (10 * share * (1 - share)) - 1).abs() < 0.15).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3 * SEGMENT + 5), st.integers(0, 2**32))
def test_inverse_cdf_follows_the_definition(vocabulary, seed):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(6, vocabulary, generator=generator) ** 8
    probs[:, torch.rand(vocabulary, generator=generator) < 0.5] = 0
    probs[:, vocabulary // 2] += 0.1
    uniform = torch.rand(6, generator=generator, dtype=torch.float64)
    uniform[0], uniform[1] = 0.0, 1 - 2**-53
    tokens, usable = inverse_cdf(probs, uniform)
    assert usable.all()
    assert (probs.gather(1, tokens[:, None]) > 0).all()
    running = probs.double().cumsum(1)
    low = running.gather(1, tokens[:, None])[:, 0] - probs.double().gather(1, tokens[:, None])[:, 0]
    target = uniform * running[:, -1]
    slack = 1e-6 * running[:, -1]  # sums within a segment are float32
    assert (
        (low <= target + slack) & (target <= running.gather(1, tokens[:, None])[:, 0] + slack)
    ).all()


def test_noise_is_uniform_and_streams_are_independent():
    noise = SequenceNoise(torch.arange(200))
    row, position = torch.arange(200)[:, None], torch.arange(200)[None]
    first, second = noise.uniform(0, 0, row, position), noise.uniform(0, 1, row, position)
    assert 0 <= float(first.min()) < 1e-4
    assert 1 - 1e-4 < float(first.max()) < 1
    counts = torch.histc(first.flatten(), 100, 0, 1)
    assert float(((counts - 400) ** 2 / 400).sum()) < 148.2  # 99 degrees of freedom, 0.999 quantile
    for a, b in itertools.combinations([first, second, first.roll(1, 0), first.roll(1, 1)], 2):
        assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 4 / 200


@given(st.integers(1, 200), st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_split_steps_gives_all_steps_and_one_to_each_block(steps, lengths):
    if steps < len(lengths):
        with pytest.raises(InvalidValueError, match="number of blocks"):
            split_steps(steps, lengths)
    else:
        shares = split_steps(steps, lengths)
        assert sum(shares) == steps
        assert min(shares) >= 1
        if steps <= sum(lengths):
            assert all(share <= count for share, count in zip(shares, lengths, strict=True))
        assert split_steps(steps, [0, *lengths, 0]) == [1, *shares, 1]


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_a_seed_of_numpy_or_torch_is_one_seed_for_the_batch(seed):
    tokens = torch.full((4, 8), MASK)
    options = {"mask_token_id": MASK, "steps": 4, "draw": DrawOptions(1.0)}
    expected = sample(denoiser, tokens, seed=3, **options).sequences
    assert len(expected.unique(dim=0)) > 1
    assert torch.equal(sample(denoiser, tokens, seed=seed, **options).sequences, expected)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"steps": 0}, InvalidValueError, "steps"),
        ({"steps": -3}, InvalidValueError, "steps"),
        ({"steps": 2.5}, InvalidTypeError, "steps"),
        ({"remasking": "low_confidense"}, UnknownNameError, "low_confidence"),
        ({"schedule": "linnear"}, UnknownNameError, "linear"),
        ({"plan": [1, 2]}, InvalidValueError, "sum"),
        ({"plan": [4], "steps": 1}, InvalidValueError, "plan or steps"),
        ({"seed": [1, 2, 3]}, InvalidValueError, "seed"),
        ({"seed": 1.5}, InvalidTypeError, "seed"),
        ({"block_ends": [3, 2, 4]}, InvalidValueError, "block_ends"),
        ({"mask_token_id": None}, InvalidTypeError, "mask_token_id"),
    ],
)
def test_bad_input_is_told_before_the_first_pass(options, error, says):
    def never(state, rows):
        raise AssertionError("the model was called")

    with pytest.raises(error, match=says) as caught:
        sample(never, masks(2, 4), **{"mask_token_id": MASK, **options})
    assert isinstance(caught.value, MDMError)


@pytest.mark.parametrize(
    "tokens", [torch.zeros(0, 4, dtype=torch.long), torch.zeros(4, dtype=torch.long), [[1]]]
)
def test_tokens_of_a_wrong_kind(tokens):
    with pytest.raises(MDMError, match="tokens"):
        sample(denoiser, tokens, mask_token_id=MASK)


def test_unusable_logits_name_the_pass_and_the_row():
    calls = []

    def breaks(state, rows):
        calls.append(1)
        logits = denoiser(state, rows).clone()
        if len(calls) == 2:
            logits[rows // state.shape[1] == 1] = float("nan")
        return logits

    for remasking in ("low_confidence", "random"):
        calls.clear()
        with pytest.raises(InvalidValueError, match="pass 2 for row 1"):
            sample(breaks, masks(3, 6), mask_token_id=MASK, steps=3, remasking=remasking)
    everything = DrawOptions(suppress_tokens=list(range(V)))
    with pytest.raises(InvalidValueError, match="nothing left to draw"):
        sample(denoiser, masks(1, 3), mask_token_id=MASK, draw=everything)


@pytest.mark.parametrize(
    "bad", [lambda s, r: None, lambda s, r: torch.zeros(1, 2, 3), lambda s, r: torch.zeros(1, V)]
)
def test_a_denoiser_of_the_wrong_shape(bad):
    with pytest.raises(MDMError, match="denoiser"):
        sample(bad, masks(2, 4), mask_token_id=MASK)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
    ],
)
def test_bad_draw_options(bad):
    with pytest.raises(InvalidValueError, match=next(iter(bad))):
        DrawOptions(**bad)


def test_top_k_top_p_and_processor_restrict_the_draw():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    for options, allowed in (
        (DrawOptions(1.0, top_k=2), {0, 1}),
        (DrawOptions(1.0, top_p=0.6), {0, 1}),
        (
            DrawOptions(
                1.0,
                logits_processor=lambda ids, x: x.index_fill(1, torch.tensor([0, 1]), -torch.inf),
            ),
            {2, 3},
        ),
    ):
        out = sample(
            lambda state, rows: logits.repeat(len(rows), 1),
            torch.full((200, 4), 9),
            mask_token_id=9,
            draw=options,
            remasking="random",
            seed=0,
        )
        assert set(out.sequences.unique().tolist()) == allowed
