"""Commits by threshold and by entropy, masking again, ends of sequences, and cropping, over plain
functions.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdm_schedules.errors import InvalidValueError, MDMError
from mdm_schedules.sampling import DrawOptions, get_commit, sample
from mdm_schedules.sampling.commits import choose_commit

V, MASK, EOS, PAD = 12, 11, 10, 0
TABLE = torch.randn(97, V, generator=torch.Generator().manual_seed(0)) * 3


def denoiser(tokens, rows):
    """Logits that depend on the position and on what is revealed in its own sequence."""
    length = tokens.shape[1]
    seen = torch.where(tokens == MASK, 0, tokens + 1).sum(1)[rows // length]
    return TABLE[(7 * (rows % length) + seen) % 97]


def masks(batch, length):
    return torch.full((batch, length), MASK)


def by_hand(length, steps, rule, score):
    """One row at temperature 0, with the same rule, position by position."""
    tokens, plan = masks(1, length), [length // steps] * steps
    passes = []
    for quota in plan:
        left = (tokens[0] == MASK).nonzero().flatten()
        if not len(left):
            break
        logits = denoiser(tokens, left).clone()
        probs = logits.softmax(1)
        logits[:, MASK] = -torch.inf
        value = score(probs)
        order = value.argsort(descending=True, stable=True)
        count = max(min(quota, len(left)), rule(value[order]))
        tokens[0, left[order[:count]]] = logits[order[:count]].argmax(1)
        passes.append(count)
    return tokens, passes


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.8, 1.0])
def test_threshold_commits_all_above_it_and_the_plan_is_the_least(threshold):
    expected, passes = by_hand(
        24,
        12,
        lambda value: int((value > threshold).sum()),
        lambda probs: probs[:, :MASK].max(1).values,
    )
    commit = get_commit(f"threshold({threshold})")
    out = sample(denoiser, masks(1, 24), mask_token_id=MASK, steps=12, commit=commit)
    assert torch.equal(out.sequences, expected)
    assert out.plan.tolist() == [passes]
    assert out.nfe == len(passes)
    assert {0.0: 1, 1.0: 12}.get(threshold, out.nfe) == out.nfe


@pytest.mark.parametrize("bound", [0.0, 0.5, 3.0])
def test_entropy_bound_commits_up_to_a_joint_entropy(bound):
    def rule(value):
        entropies = -value.double()
        return sum(
            float(entropies[: i + 1].sum() - entropies[: i + 1].max()) <= bound
            for i in range(len(value))
        )

    expected, passes = by_hand(24, 24, rule, lambda probs: -torch.special.entr(probs).sum(1))
    commit = get_commit(f"entropy_bound({bound})")
    out = sample(denoiser, masks(1, 24), mask_token_id=MASK, remasking="entropy", commit=commit)
    assert torch.equal(out.sequences, expected)
    assert out.plan.tolist() == [passes]
    assert (out.nfe < 24) == (bound > 0)


def test_rows_of_a_batch_commit_as_they_do_alone_and_report_their_own_passes():
    tokens = masks(3, 24)
    tokens[1, :7], tokens[2, 3:20] = 2, 5
    options = {"mask_token_id": MASK, "steps": 8, "commit": get_commit("threshold(0.5)"), "seed": 4}
    options["draw"] = DrawOptions(1.0)
    together = sample(denoiser, tokens, **options)
    for row in range(3):
        alone = sample(denoiser, tokens[row : row + 1], **options)
        assert torch.equal(together.sequences[row], alone.sequences[0])
        assert together.nfe_per_row[row] == alone.nfe
    assert together.nfe == int(together.nfe_per_row.max())


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["random", "low_confidence", "left_to_right", "entropy"]),
    st.floats(0, 1),
    st.integers(1, 10),
    st.integers(0, 2**20),
)
def test_remasking_spends_the_planned_passes_and_leaves_no_mask(remasking, remask, steps, seed):
    tokens = masks(3, 17)
    tokens[1, 4:], tokens[2, :8] = 3, 5
    history = []
    out = sample(
        denoiser,
        tokens,
        mask_token_id=MASK,
        steps=steps,
        remasking=remasking,
        remask_fraction=remask,
        seed=seed,
        draw=DrawOptions(1.0),
        callback=lambda info: history.append((info.tokens == MASK).sum(1)),
    )
    assert not (out.sequences == MASK).any()
    assert torch.equal(out.sequences[tokens != MASK], tokens[tokens != MASK])
    assert out.nfe == steps
    # as many masks after each pass as the plan without remasking leaves
    left = (tokens == MASK).sum(1, keepdim=True) - out.plan.cumsum(1)
    assert torch.equal(torch.stack(history, 1), left)


def test_remasking_masks_again_the_planned_share_uniformly():
    """Plan 6, 6, 6 of 18 at remask 0.5: three of the first six are masked again by the second
    pass.
    """
    states = []
    sample(
        denoiser,
        masks(4000, 18),
        mask_token_id=MASK,
        plan=[6, 6, 6],
        remasking="random",
        remask_fraction=0.5,
        draw=DrawOptions(1.0),
        callback=lambda info: states.append(info.tokens.clone()),
    )
    first, second = (state != MASK for state in states[:2])
    forgotten = first & ~second
    assert (forgotten.sum(1) == 3).all()
    shares = forgotten.sum(0) / first.sum(0)
    assert ((shares - 0.5).abs() < 5 * (0.25 / first.sum(0)).sqrt()).all()
    # every masked position is as likely to be filled next, whether it was filled before or not
    third = states[2] != MASK
    assert third.all()


def test_no_remasking_is_the_plain_run():
    options = {
        "mask_token_id": MASK,
        "steps": 5,
        "remasking": "random",
        "seed": 1,
        "draw": DrawOptions(1.0),
    }
    plain = sample(denoiser, masks(2, 20), **options)
    assert torch.equal(
        sample(denoiser, masks(2, 20), remask_fraction=0.0, **options).sequences, plain.sequences
    )
    assert not torch.equal(
        sample(denoiser, masks(2, 20), remask_fraction=0.3, **options).sequences, plain.sequences
    )


class Ending:
    """Puts EOS at a column that differs by row, letters elsewhere, and records the batches it was
    given.
    """

    def __init__(self, columns, start):
        self.columns, self.start, self.batches = torch.tensor(columns), start, []

    def __call__(self, tokens, rows):
        self.batches.append(len(tokens))
        length = tokens.shape[1]
        logits = torch.zeros(len(rows), V)
        logits[:, 3] = 5 + (rows % length) / 10
        here = rows % length == self.columns[rows // length] + self.start
        logits[here, EOS] = 20.0
        return logits


class Keeping(Ending):
    def keep(self, rows):
        self.columns = self.columns[rows]


@pytest.mark.parametrize("kind", [Ending, Keeping])
@pytest.mark.parametrize("ends", [[8, 16, 24, 32], None])
def test_rows_end_at_eos_leave_the_batch_and_others_do_not_notice(kind, ends):
    prompt = torch.tensor([[EOS, 4], [5, EOS], [6, 7]])  # an EOS of the prompt ends nothing
    tokens = torch.nn.functional.pad(prompt, (0, 32), value=MASK)
    columns, block_ends = [3, 30, 99], None if ends is None else [end + 2 for end in ends]
    model = kind(columns, 2)
    options = {"mask_token_id": MASK, "block_ends": block_ends, "remasking": "left_to_right"}
    out = sample(model, tokens, eos_token_ids=[EOS], pad_token_id=PAD, answer_start=2, **options)
    plain = sample(Ending(columns, 2), tokens, **options)
    assert torch.equal(out.sequences[0, 6:], torch.full((28,), PAD))
    assert torch.equal(out.sequences[0, :6], plain.sequences[0, :6])
    assert torch.equal(out.sequences[1, :33], plain.sequences[1, :33])
    assert out.sequences[1, 33:].tolist() == [PAD]
    assert torch.equal(out.sequences[2], plain.sequences[2])
    assert out.nfe == 32
    assert out.nfe_per_row.tolist() == [8, 32, 32]
    assert model.batches == ([3] * 8 + [2] * 24 if kind is Keeping else [3] * 32)


def test_an_eos_with_masks_before_it_does_not_end_the_row():
    tokens = masks(1, 20)
    model = Ending([15], 0)  # by confidence the EOS comes first
    out = sample(model, tokens, mask_token_id=MASK, eos_token_ids=[EOS], pad_token_id=PAD)
    assert out.sequences[0].tolist() == [3] * 15 + [EOS] + [PAD] * 4
    assert len(model.batches) == 20


def test_an_answer_without_a_prompt_may_end_at_its_first_column():
    out = sample(
        Ending([0], 0), masks(1, 4), mask_token_id=MASK, eos_token_ids=[EOS], pad_token_id=PAD
    )
    assert out.sequences.tolist() == [[EOS, PAD, PAD, PAD]]


def test_all_rows_ended_ends_the_run():
    tokens = masks(2, 64)
    model = Keeping([2, 5], 0)
    out = sample(model, tokens, mask_token_id=MASK, remasking="left_to_right", eos_token_ids=[EOS])
    assert out.nfe == 8
    assert out.sequences[0].tolist() == [3, 3] + [EOS] * 62
    assert out.plan.shape == (2, 8)


def test_noise_belongs_to_the_row_when_others_leave():
    class Mixed(Keeping):
        def __call__(self, tokens, rows):
            return super().__call__(tokens, rows) + denoiser(tokens, rows)

    tokens = torch.tensor([[1], [2], [3]])
    tokens = torch.nn.functional.pad(tokens, (0, 40), value=MASK)
    options = {
        "mask_token_id": MASK,
        "eos_token_ids": [EOS],
        "answer_start": 1,
        "seed": 5,
        "remasking": "left_to_right",
    }
    options["draw"] = DrawOptions(1.0)
    together = sample(Mixed([4, 99, 20], 1), tokens, **options).sequences
    for row, column in enumerate([4, 99, 20]):
        alone = sample(Mixed([column], 1), tokens[row : row + 1], **options).sequences
        assert torch.equal(together[row], alone[0])


def test_crop_shows_only_the_columns_up_to_the_block():
    widths = []

    def recording(tokens, rows):
        widths.append(tokens.shape[1])
        assert int(rows.max()) < tokens.numel()
        return denoiser(tokens, rows)

    out = sample(
        recording, masks(2, 10), mask_token_id=MASK, block_ends=[4, 10], steps=[2, 2], crop=True
    )
    assert widths == [4, 4, 10, 10]
    assert not (out.sequences == MASK).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"commit": {"threshold": -0.1}}, "threshold"),
        ({"commit": {"threshold": float("nan")}}, "threshold"),
        ({"commit": {"threshold": 0.5}, "remasking": "random"}, "low_confidence"),
        ({"commit": {"entropy_bound": 0.5}}, "entropy"),
        ({"commit": {"threshold": 0.5}, "remask_fraction": 0.5}, "not both"),
        ({"remask_fraction": 1.5}, "remask"),
        ({"remask_fraction": float("nan")}, "remask"),
        ({"eos_token_ids": [-1]}, "eos_token_ids"),
        ({"eos_token_ids": [1], "pad_token_id": MASK}, "mask"),
    ],
)
def test_bad_options_are_told_before_the_first_pass(options, says):
    def never(tokens, rows):
        raise AssertionError("the model was called")

    def run():
        rule = {
            name: choose_commit(None, value.get("threshold"), value.get("entropy_bound"))
            if name == "commit"
            else value
            for name, value in options.items()
        }
        sample(never, masks(1, 4), mask_token_id=MASK, **rule)

    with pytest.raises(MDMError, match=says):
        run()


def test_unusable_logits_name_the_row_of_the_whole_batch():
    class Broken(Keeping):
        def __call__(self, tokens, rows):
            logits = super().__call__(tokens, rows)
            if len(tokens) == 1:
                logits[:] = np.nan
            return logits

    with pytest.raises(InvalidValueError, match=r"pass 9 for row 1"):
        sample(
            Broken([2, 99], 0),
            masks(2, 32),
            mask_token_id=MASK,
            remasking="left_to_right",
            eos_token_ids=[EOS],
        )
