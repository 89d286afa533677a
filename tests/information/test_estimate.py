"""Profiles estimated from models of every form, against worlds whose posteriors are known."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from encoders import small_bert

import mdm_schedules as mdm
from mdm_schedules import InformationProfile
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.information.curves import CURVES, choose_and_fit
from mdm_schedules.information.estimate import spread_counts

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "markov_chains.py"


@pytest.fixture
def chains():
    """Provide the benchmark's worlds."""
    spec = importlib.util.spec_from_file_location("markov_chains", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bert():
    return small_bert(initializer_range=1.0, mask_token_id=4).train()


CLEAN = torch.randint(5, 30, (4, 12), generator=torch.Generator().manual_seed(1))


# -- the worlds of the benchmark, and what is estimated in them
# ----------------------------------------------------


def test_chain_profile_and_posteriors_are_those_of_the_enumerated_distribution(chains, monkeypatch):
    monkeypatch.setattr(chains, "TOKENS", 6)
    transition = np.random.default_rng(3).dirichlet([0.5] * 3, size=3)
    chain = chains.Chain(transition)
    np.testing.assert_allclose(chain.start @ transition, chain.start, atol=1e-12)
    states = torch.tensor(list(itertools.product(range(3), repeat=6)))
    p = torch.from_numpy(chain.start)[states[:, 0]]
    for i in range(5):
        p = p * torch.from_numpy(transition)[states[:, i], states[:, i + 1]]
    exact = InformationProfile.from_distribution(p.reshape([3] * 6))
    torch.testing.assert_close(chain.profile().h, exact.h, rtol=0, atol=1e-12)
    tokens = states[::7].clone()
    tokens[torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.6] = 3
    rows = (tokens.flatten() == 3).nonzero()[:, 0]
    agree = ((tokens[rows // 6][:, None] == states) | (tokens[rows // 6][:, None] == 3)).all(2) * p
    posterior = torch.stack([(agree * (v == states[:, rows % 6].T)).sum(1) for v in range(3)], 1)
    ours = chain(tokens, rows).exp()
    torch.testing.assert_close(
        ours / ours.sum(1, True), posterior / posterior.sum(1, True), rtol=0, atol=1e-12
    )


def test_parity_profile_is_that_of_the_enumerated_distribution(chains, monkeypatch):
    monkeypatch.setattr(chains, "TOKENS", 8)
    bits = torch.tensor(list(itertools.product(range(2), repeat=8)))
    even = ((bits[:, :4].sum(1) % 2 == 0) & (bits[:, 4:].sum(1) % 2 == 0)).double()
    exact = InformationProfile.from_distribution((even / even.sum()).reshape([2] * 8))
    torch.testing.assert_close(chains.Parity().profile().h, exact.h, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sticky", "parity"])
def test_sixteen_sequences_tell_the_best_plan(chains, name):
    world = chains.worlds()[name]
    exact = world.profile()
    ratios = []
    for seed in range(3):
        profile = InformationProfile.estimate(
            world,
            world.sequences(16, seed),
            mask_token_id=world.mask,
            passes=1024,
            batch_size=64,
            seed=seed,
        )
        assert profile.measurement.passes <= 1024
        least = [exact.cost(exact.optimal_plan(steps)) for steps in (4, 8, 16)]
        ratios.append(
            [
                exact.cost(profile.optimal_plan(k)) / best
                for k, best in zip((4, 8, 16), least, strict=True)
            ]
        )
        if name == "sticky":
            assert exact.cost(profile.optimal_plan(8)) <= 0.5 * exact.cost(mdm.Linear().plan(64, 8))
    assert (np.mean(ratios, axis=0) <= 1.05).all()


def test_the_sticky_chain_costs_less_than_half_of_linear(chains):
    profile = chains.worlds()["sticky"].profile()
    costs = {steps: chains.exact_costs(profile, steps) for steps in (4, 8)}
    assert costs[8]["optimal_plan"] <= 0.48 * costs[8]["linear"]
    for row in costs.values():
        assert (
            row["optimal_plan"] <= row["fit_beta"] <= row["best Beta of the grid"] <= row["linear"]
        )


@pytest.mark.parametrize("method", ["entropy", "cross_entropy"])
def test_means_are_unbiased_and_errors_honest(chains, method):
    world = chains.worlds()["sticky"]
    counts = [0, 1, 5, 20, 50, 63]
    profile = InformationProfile.estimate(
        world,
        world.sequences(64, 5),
        mask_token_id=world.mask,
        counts=counts,
        method=method,
        batch_size=64,
    )
    record = profile.measurement
    assert (record.counts, record.sequences, record.method) == (tuple(counts), 64, method)
    exact = world.profile().h.numpy()[counts]
    errors = np.array(record.standard_errors)
    # With everything hidden one pass answers for all, and only the true tokens differ.
    assert method == "cross_entropy" or errors[0] < 1e-12
    assert record.passes == 64 * 5 + 1
    assert (np.abs(record.means - exact) <= 4.5 * errors + 1e-9).all()
    assert (errors[1:] > 0).all()


@pytest.mark.parametrize(
    ("stay", "sequences", "message"),
    [(0.9, 6, "6 sequences are too few"), (0.998, 16, "almost certain of most tokens")],
)
def test_errors_that_are_no_guide_are_said_to_be(chains, stay, sequences, message):
    transition = np.full((4, 4), (1 - stay) / 3) + np.eye(4) * (stay - (1 - stay) / 3)
    world = chains.Chain(transition)

    def estimate(sequences):
        InformationProfile.estimate(
            world,
            world.sequences(sequences, 1),
            mask_token_id=world.mask,
            batch_size=64,
            passes=512,
        )

    with pytest.warns(UserWarning, match=message):
        estimate(sequences)


def test_errors_that_hold_are_not_warned_of(chains, recwarn):
    world = chains.worlds()["sticky"]
    InformationProfile.estimate(
        world, world.sequences(16, 1), mask_token_id=world.mask, batch_size=64, passes=512
    )
    assert not [w for w in recwarn if "sequences" in str(w.message)]


def test_more_passes_draw_more_subsets(chains):
    world = chains.worlds()["sticky"]
    sequences = world.sequences(8, 5)
    few, many = (
        InformationProfile.estimate(
            world, sequences, mask_token_id=16, counts=[0, 32, 63], passes=24 * k, batch_size=64
        )
        for k in (1, 16)
    )
    assert (few.measurement.passes, many.measurement.passes) == (17, 16 * 16 + 1)
    assert many.measurement.standard_errors[1] < few.measurement.standard_errors[1]


# -- the forms of a model
# ------------------------------------------------------------------------------------------


def test_every_form_of_a_model_gives_the_same_profile(bert):
    expected = InformationProfile.estimate(bert, CLEAN)
    bert.eval()

    def rows_only(tokens, rows):
        return bert(tokens).logits.flatten(0, 1)[rows]

    forms = {
        "logits": lambda tokens: bert(tokens).logits,
        "output": lambda tokens: SimpleNamespace(logits=bert(tokens).logits.double()),
        "denoiser": rows_only,
        "loaded": mdm.AutoModelForMaskedDiffusion.from_model(bert),
    }
    for name, form in forms.items():
        profile = InformationProfile.estimate(form, CLEAN.tolist(), mask_token_id=4)
        torch.testing.assert_close(profile.h, expected.h, rtol=1e-4, atol=1e-5, msg=name)
        np.testing.assert_allclose(
            profile.measurement.means, expected.measurement.means, rtol=1e-5, err_msg=name
        )


def test_nothing_of_the_callers_is_changed(bert):
    bert.bert.embeddings.dropout.eval()
    modes = [module.training for module in bert.modules()]
    kept = []

    def model(tokens):
        kept.append(bert(tokens).logits)
        kept.append(kept[-1].clone())
        return kept[-2]

    state, sequences = torch.random.get_rng_state(), CLEAN.clone()
    InformationProfile.estimate(bert, sequences)
    assert [module.training for module in bert.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(sequences, CLEAN)
    bert.eval()
    InformationProfile.estimate(model, sequences, mask_token_id=4)
    assert torch.equal(kept[0], kept[1])


def test_the_seed_decides_and_the_batch_does_not(bert):
    first, again, alone = (
        InformationProfile.estimate(bert, CLEAN, seed=3, batch_size=b) for b in (16, 16, 1)
    )
    other = InformationProfile.estimate(bert, CLEAN, seed=4)
    assert first == again
    np.testing.assert_allclose(first.measurement.means, alone.measurement.means, rtol=1e-5)
    assert first.measurement.means != other.measurement.means


def test_a_prompt_stays_visible_and_the_mask_is_never_predicted():
    seen = []

    def model(tokens):
        seen.append(tokens)
        logits = torch.zeros(*tokens.shape, 10)
        logits[..., 9] = 50.0  # the mask token
        return logits

    maskable = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 0, 1, 0, 1, 1]]).bool()
    tokens = torch.arange(6).expand(2, 6)
    profile = InformationProfile.estimate(
        model, tokens, maskable=maskable, mask_token_id=9, batch_size=1
    )
    assert profile.num_tokens == 4
    np.testing.assert_allclose(profile.measurement.means, np.log(9), rtol=1e-6)
    assert len(seen) == profile.measurement.passes == 8
    hidden = [(state == 9)[0] for state in seen]
    assert sorted(int(h.sum()) for h in hidden) == [1, 1, 2, 2, 3, 3, 4, 4]
    for state, mask in zip(seen, hidden, strict=True):
        assert torch.equal(state[0][~mask], torch.arange(6)[~mask])
        assert any(not (mask & ~row).any() for row in maskable)


@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.parametrize("sure", [False, True])
def test_short_sequences_and_a_model_without_doubt(n, sure):
    def model(tokens):
        return torch.nn.functional.one_hot(torch.zeros_like(tokens), 6) * (1e4 if sure else 0.0)

    profile = InformationProfile.estimate(
        model, torch.ones(2, n, dtype=torch.long), mask_token_id=5, method="entropy"
    )
    torch.testing.assert_close(
        profile.h, torch.full((n,), 0.0 if sure else np.log(5), dtype=torch.float64)
    )
    assert profile.cost(profile.optimal_plan(1)) == pytest.approx(0, abs=1e-6)
    assert profile.schedule().plan(n, 1).tolist() == [n]
    assert profile.fit_beta(1).plan(n, 1).tolist() == [n]


def test_estimates_are_saved_whole(bert, tmp_path):
    profile = InformationProfile.estimate(bert, CLEAN)
    profile.save_pretrained(tmp_path)
    again = InformationProfile.from_pretrained(tmp_path)
    assert again == profile
    assert again.measurement == profile.measurement
    assert "curve" in repr(again)


# -- the curve
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CURVES))
def test_every_kind_of_curve_is_monotone_and_finds_what_it_can_express(name):
    n = 40
    x = np.arange(n) / (n - 1)
    truth = 0.3 + 2 * (1 - x)
    counts = spread_counts(n, 12)
    noise = np.random.default_rng(0).normal(0, 0.3, len(counts))
    curve = CURVES[name](counts, truth[counts], np.ones(len(counts)), n)
    assert curve.shape == (n,)
    np.testing.assert_allclose(curve, truth, atol=0.06)
    rough = CURVES[name](counts, np.maximum(truth[counts] + noise, 0), np.ones(len(counts)), n)
    assert (np.diff(rough) <= 1e-9).all()
    assert rough.min() >= -1e-12


def test_another_curve_is_taken_where_the_default_costs_more():
    """The profile is a staircase, which no smooth curve follows."""
    n = 64
    h = np.repeat([3.0, 2.0, 1.0, 0.2], 16)
    values = h + np.random.default_rng(0).normal(0, 0.01, (16, n))
    curve, kind, scores = choose_and_fit(values, np.arange(n), n)
    assert kind == "isotonic"
    assert scores["isotonic"] < scores["beta_mixture"]
    np.testing.assert_allclose(curve, h, atol=0.05)


def test_counts_are_spread_over_all():
    for n, many in ((10, 2), (65, 64), (256, 64), (5, 9)):
        counts = spread_counts(n, many)
        assert len(counts) == min(n, many)
        assert (counts[0], counts[-1]) == (0, n - 1)
        assert (np.diff(counts) > 0).all()


# -- bad input
# -----------------------------------------------------------------------------------------------------


def flat(tokens):
    return torch.zeros(*tokens.shape, 8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": 3}, InvalidTypeError, "callable"),
        ({"sequences": "abc"}, InvalidTypeError, "token ids"),
        ({"sequences": [[1, 2], ["a"]]}, InvalidTypeError, "S rows of token ids"),
        ({"sequences": [[1, 2], [[1]]]}, InvalidTypeError, "S rows of token ids"),
        ({"sequences": [[1, 2], []]}, InvalidValueError, "none empty"),
        ({"sequences": [[1, 2], [1.5]]}, InvalidTypeError, "integer"),
        ({"sequences": [[1, 2], [7]]}, InvalidValueError, "hold the mask token 7"),
        ({"maskable": [torch.ones(3).bool()]}, InvalidValueError, "bool tensor of shape (2, 3)"),
        ({"num_tokens": 0}, InvalidValueError, "num_tokens"),
        ({"sequences": torch.rand(3, 4)}, InvalidTypeError, "integer"),
        ({"sequences": torch.ones(1, 4, dtype=torch.long)}, InvalidValueError, "S >= 2"),
        ({"sequences": torch.ones(2, 0, dtype=torch.long)}, InvalidValueError, "S >= 2"),
        ({"sequences": torch.full((2, 3), -1)}, InvalidValueError, ">= 0"),
        ({"sequences": torch.full((2, 3), 7)}, InvalidValueError, "hold the mask token 7"),
        ({"mask_token_id": None}, InvalidValueError, "mask_token_id=..."),
        ({"mask_token_id": -1}, InvalidValueError, "mask_token_id"),
        ({"maskable": torch.ones(2, 2)}, InvalidValueError, "bool tensor of shape"),
        ({"maskable": torch.zeros(2, 3).bool()}, InvalidValueError, "at least 1"),
        (
            {"maskable": torch.tensor([[1, 1, 1], [0, 0, 0]]).bool()},
            InvalidValueError,
            "sequence 1 has none",
        ),
        ({"counts": [0, 1]}, InvalidValueError, "from 0 to 2"),
        ({"counts": [0, 0, 2]}, InvalidValueError, "increase"),
        ({"counts": 2}, InvalidValueError, "increase"),
        ({"counts": [0, 3]}, InvalidValueError, "counts"),
        ({"counts": []}, InvalidValueError, "increase"),
        ({"counts": [0, 2], "passes": 3}, InvalidValueError, "need 4 passes"),
        ({"passes": 3}, InvalidValueError, "at least 4 passes"),
        ({"passes": 0}, InvalidValueError, "passes"),
        ({"method": "nll"}, InvalidValueError, "'cross_entropy'"),
        ({"batch_size": 0}, InvalidValueError, "batch_size"),
        ({"seed": -1}, InvalidValueError, "seed"),
        ({"sequences": torch.ones(2, 3, device="meta").long()}, InvalidTypeError, "token ids"),
        ({"sequences": torch.ones(2, 3).long().to_sparse()}, InvalidTypeError, "token ids"),
        ({"attention_mask": "ones"}, InvalidValueError, "got 'ones'"),
        ({"attention_mask": torch.ones(2, 2)}, InvalidValueError, "got (2, 2)"),
        ({"attention_mask": torch.zeros(2, 3)}, InvalidValueError, "sequence 0 has none"),
    ],
)
def test_bad_arguments_are_told_before_the_first_pass(options, error, message):
    passes = []

    def model(tokens):
        passes.append(tokens)
        return flat(tokens)

    given = {
        "model": model,
        "sequences": torch.tensor([[1, 2, 3], [3, 2, 1]]),
        "mask_token_id": 7,
        **options,
    }
    with pytest.raises(error, match=re.escape(message)):
        InformationProfile.estimate(**given)
    assert not passes


def test_positions_that_the_model_does_not_have_are_told_before_the_first_pass(bert):
    bert.register_forward_pre_hook(lambda *_: pytest.fail("the model was called"))
    with pytest.raises(InvalidValueError, match="36 tokens, but the model has positions for 32"):
        InformationProfile.estimate(bert, CLEAN.repeat(1, 3))


def test_tokens_that_the_model_cannot_read_are_told_before_the_first_pass(bert):
    with pytest.raises(InvalidValueError, match=r"\[0, 29\].*30"):
        InformationProfile.estimate(bert, CLEAN + 1)
    with pytest.raises(InvalidValueError, match=r"\[0, 29\].*99"):
        InformationProfile.estimate(bert, CLEAN, mask_token_id=99)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda tokens: None, InvalidTypeError, "must return logits"),
        (lambda tokens: (flat(tokens),), InvalidTypeError, "must return logits"),
        (lambda tokens: flat(tokens).long(), InvalidTypeError, "floating-point"),
        (lambda tokens: flat(tokens)[:, 1:], InvalidTypeError, "got [1, 2, 8]"),
        (lambda tokens: flat(tokens)[..., :2], InvalidValueError, "token 3, but the model has 2"),
        (lambda tokens: flat(tokens) * torch.nan, InvalidValueError, "NaN"),
        (lambda tokens: flat(tokens) + torch.inf, InvalidValueError, "+inf"),
        (lambda tokens: flat(tokens) - torch.inf, InvalidValueError, "-inf"),
        (lambda tokens, rows: flat(tokens), InvalidTypeError, "floating-point logits"),
        (
            lambda tokens, rows: flat(tokens).flatten(0, 1)[rows][1:],
            InvalidValueError,
            "rows of logits",
        ),
    ],
)
def test_unusable_logits_are_told(model, error, message):
    with pytest.raises(error, match=re.escape(message)):
        InformationProfile.estimate(model, [[1, 2, 3], [3, 2, 1]], mask_token_id=7)


def test_an_impossible_token_makes_the_cross_entropy_infinite():
    def model(tokens):
        logits = flat(tokens)
        logits[..., 2] = -torch.inf
        return logits

    with pytest.raises(InvalidValueError, match="method='entropy'"):
        InformationProfile.estimate(
            model, [[1, 2, 3], [3, 2, 1]], mask_token_id=7, method="cross_entropy"
        )
    with pytest.warns(UserWarning, match="probability 0.*the profile uses the entropy"):
        told = InformationProfile.estimate(model, [[1, 2, 3], [3, 2, 1]], mask_token_id=7)
    assert told.measurement.calibration is None
