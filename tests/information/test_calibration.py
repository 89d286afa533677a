"""Models that are surer than they are right: found, said, and priced by what the truth costs."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from scipy.stats import spearmanr

import mdm_schedules as mdm
from mdm_schedules import InformationProfile
from mdm_schedules.errors import FormatError
from mdm_schedules.files import TensorFile
from mdm_schedules.information.plans import optimal_plans, plan_cost

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "markov_chains.py"
TOKENS = 24


class World:
    """An exact Markov chain, and a model of it that is overconfident at high mask rates."""

    def __init__(self, transition, sharpness):
        spec = importlib.util.spec_from_file_location("short_chains", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.TOKENS = TOKENS
        self.chain, self.sharpness = module.Chain(transition), sharpness
        self.mask = self.chain.mask

    def __call__(self, tokens, rows):
        rate = (tokens == self.mask).double().mean(1)[rows // TOKENS]
        return self.chain(tokens, rows) * (1 + self.sharpness * rate**2)[:, None]

    def estimate(self, sequences=16, **options):
        clean = self.chain.sequences(sequences, 0)
        return InformationProfile.estimate(
            self, clean, mask_token_id=self.mask, batch_size=64, **options
        )

    def cross_entropy(self):
        """What the model's predictions cost at each count: truth by the exact posterior."""
        costs = []
        for count in range(TOKENS):
            clean = self.chain.sequences(150, 1000 + count)
            noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(count))
            tokens = clean.masked_fill(noise.argsort(1) >= count, self.mask)
            rows = (tokens.flatten() == self.mask).nonzero()[:, 0]
            posterior = self.chain(tokens, rows).softmax(1)
            costs.append(float(-(posterior * self(tokens, rows).log_softmax(1)).sum(1).mean()))
        return np.array(costs)


# The first model is wrong even with nothing revealed. The second is right there, since all letters
# are equally frequent, so that its cross-entropy rises before it falls.
PEAKY = np.random.default_rng(0).dirichlet(np.full(12, 0.2), size=12)
STICKY = np.full((8, 8), 0.2 / 7) + np.eye(8) * (0.8 - 0.2 / 7)


@pytest.mark.parametrize("transition", [PEAKY, STICKY], ids=["peaky", "sticky"])
def test_the_predicted_ranking_holds_for_an_overconfident_model(transition):
    world = World(transition, 4.0)
    with pytest.warns(UserWarning, match="the model is overconfident with 0 to 5 .* revealed"):
        profile = world.estimate()
    truth, data = world.cross_entropy(), world.chain.profile()
    rng = np.random.default_rng(0)
    betas = [mdm.Beta(*np.exp(rng.uniform(-1.9, 1.4, 2)).tolist()) for _ in range(40)]
    plans = [beta.plan(TOKENS, 6).numpy() for beta in betas]
    # Exact but for the 150 sequences of a count: KL(data || sampler given the order).
    costs = [
        (truth[np.repeat(np.cumsum(plan) - plan, plan)] - data.h.numpy()).sum() for plan in plans
    ]
    assert spearmanr([profile.cost(plan) for plan in plans], costs).statistic >= 0.9
    trusting = world.estimate(method="entropy")
    assert spearmanr([trusting.cost(plan) for plan in plans], costs).statistic < 0.5
    assert profile.measurement.method == "cross_entropy"
    np.testing.assert_allclose(profile.measurement.means, truth, atol=0.8)
    best, other = (np.array(one.optimal_plan(6)) for one in (profile, trusting))
    assert plan_cost(truth, best) < plan_cost(truth, other)


def test_a_calibrated_model_is_measured_by_its_entropy():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        profile = World(STICKY, 0.0).estimate()
    assert profile.measurement.method == "entropy"
    told = profile.measurement.calibration
    assert not told.differs
    assert str(told) == "calibrated as far as these sequences show"
    assert (
        np.mean(np.abs(np.subtract(told.cross_entropy, told.entropy)) < 3 * np.array(told.errors))
        > 0.9
    )


def test_few_sequences_without_a_rare_token_show_no_underconfidence():
    """Sequences that hold no surprise have a cross-entropy below the entropy, and no spread."""
    sure = np.full((4, 4), 0.002) + np.eye(4) * (0.994 - 0.002)
    world = World(sure, 0.0)
    constant = torch.zeros(8, TOKENS, dtype=torch.long)
    with pytest.warns(UserWarning, match="almost certain"):
        profile = InformationProfile.estimate(world, constant, mask_token_id=world.mask)
    late = profile.measurement.calibration.ranges[-1]
    assert late.cross_entropy < late.entropy
    assert not late.differs


def test_an_underconfident_model_is_said_to_be():
    with pytest.warns(UserWarning, match="underconfident"):
        profile = World(PEAKY, -0.8).estimate()
    assert all(part.gap < 0 for part in profile.measurement.calibration.ranges if part.differs)


def test_a_calibration_is_saved_drawn_and_missing_in_old_files(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.warns(UserWarning, match="overconfident"):
        profile = World(STICKY, 8.0).estimate(counts=[0, 2, 5, 9, 15, 23])
    assert max(np.diff(profile.values)) > 0  # a cross-entropy may rise
    profile.save_pretrained(tmp_path)
    again = InformationProfile.from_pretrained(tmp_path)
    assert again == profile
    assert again.measurement.calibration == profile.measurement.calibration
    again.measurement.calibration.plot(tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")

    file = TensorFile(lambda: tmp_path / "profile.safetensors")
    header = json.loads(file.metadata["information_profile"])
    tensors = {
        name: torch.tensor(file[name], dtype=torch.float64)
        for name in ("h", "means", "standard_errors")
    }
    tensors["h"] = tensors["h"].sort(descending=True).values
    header["format_version"] = "1.0"
    del header["measurement"]["calibration"]
    header["measurement"]["method"] = "entropy"
    old = save(tensors, {"information_profile": json.dumps(header)})
    (tmp_path / "profile.safetensors").write_bytes(old)
    loaded = InformationProfile.from_pretrained(tmp_path)
    assert loaded.measurement.calibration is None
    assert loaded.measurement.passes == profile.measurement.passes
    header["measurement"]["calibration"] = {"counts": [0], "ranges": []}
    wrong = save(tensors, {"information_profile": json.dumps(header)})
    (tmp_path / "profile.safetensors").write_bytes(wrong)
    with pytest.raises(FormatError, match="no tensor 'calibration"):
        InformationProfile.from_pretrained(tmp_path)


def test_the_best_plan_of_a_rising_curve_is_the_best_of_all():
    h = np.array([1.0, 2.5, 2.0, 3.0, 1.5, 0.5, 0.2, 0.1])
    for steps in (2, 3, 4):
        plan = optimal_plans(h, [steps])[steps]
        cuts = [
            np.diff([0, *chosen, 8]) for chosen in map(sorted, _subsets(range(1, 8), steps - 1))
        ]
        assert plan_cost(h, plan) == pytest.approx(min(plan_cost(h, one) for one in cuts))


def _subsets(items, size):
    from itertools import combinations

    return [list(one) for one in combinations(items, size)]


def test_sequences_of_different_lengths_and_mask_counts_share_one_profile():
    world = World(STICKY, 0.0)
    seen = []

    def model(tokens, rows):
        seen.append(tuple(tokens.shape))
        return torch.zeros(len(rows), 9)

    rows = [[1, 2, 3, 4], [1, 2], [3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7], [2, 1]] * 2
    profile = InformationProfile.estimate(model, rows, mask_token_id=8)
    assert profile.num_tokens == 4  # the median
    assert profile.measurement.sequences == 10
    assert {shape[1] for shape in seen} == {2, 4, 7}
    np.testing.assert_allclose(profile.measurement.calibration.entropy, np.log(8), rtol=1e-6)

    # Rows of half the masks are measured at the same shares.
    clean = world.chain.sequences(12, 1)
    maskable = torch.ones_like(clean, dtype=torch.bool)
    maskable[::2, ::2] = False
    mixed = InformationProfile.estimate(
        world, clean, maskable=maskable, mask_token_id=world.mask, num_tokens=24, method="entropy"
    )
    halves = InformationProfile.estimate(
        world, clean[::2], maskable=maskable[::2], mask_token_id=world.mask, method="entropy"
    )
    wholes = InformationProfile.estimate(
        world, clean[1::2], mask_token_id=world.mask, method="entropy"
    )
    assert (mixed.num_tokens, halves.num_tokens) == (24, 12)
    ends = [one.measurement.means[0] for one in (mixed, halves, wholes)]
    assert ends[0] == pytest.approx((ends[1] + ends[2]) / 2, rel=0.03)
