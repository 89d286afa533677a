"""What a run notes of itself: the pass of each token, the prompt, and what went wrong where."""

import math

import pytest
import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.models import Denoiser
from mdm_schedules.sampling import CommitRule, ConfidencePolicy, OrderPolicy, sample

MASK, V = 7, 8


def three(tokens, rows):
    """A model that is sure of token 3."""
    return logits_of(torch.full_like(rows, 3))


def logits_of(tokens):
    return 9.0 * torch.nn.functional.one_hot(tokens, V)


def test_each_token_has_the_number_of_its_pass_the_prompt_0_and_padding_less():
    tokens = torch.tensor([[0, 1, *[MASK] * 5], [1, *[MASK] * 5, 1]])
    real = torch.ones_like(tokens)
    real[0, 0] = 0
    options = {"mask_token_id": MASK, "attention_mask": real, "remasking": "left_to_right"}
    out = sample(three, tokens, block_ends=[4, 7], steps=[3, 3], **options)
    assert out.revealed_in.tolist() == [[-1, 0, 1, 2, 4, 5, 6], [0, 1, 2, 3, 4, 5, 0]]


def test_an_edited_token_has_the_number_of_the_pass_that_edited_it():
    passes = []

    def fickle(tokens, rows):
        """One pass after token 3 was written from the left, token 4 is better."""
        passes.append(rows)
        return logits_of(torch.where(rows < len(passes) - 1, 4, 3))

    out = sample(
        fickle,
        torch.full((1, 5), MASK),
        mask_token_id=MASK,
        remasking="left_to_right",
        edit_threshold=0.5,
    )
    assert out.sequences.tolist() == [[4, 4, 4, 4, 3]]
    assert out.revealed_in.tolist() == [[2, 3, 4, 5, 5]]
    assert out.edited.tolist() == [4]


def test_those_who_look_at_places_see_the_prompt_and_no_padding_in_it():
    seen = []

    class Looking(ConfidencePolicy):
        name = "looking"

        def score_at(self, probs, tokens, where):
            seen.append(where.prompt.tolist())
            return probs.amax(1)

    tokens = torch.tensor([[0, 1, MASK], [1, MASK, 1]])
    real = torch.tensor([[0, 1, 1], [1, 1, 1]])
    sample(three, tokens, mask_token_id=MASK, attention_mask=real, remasking=Looking())
    assert seen[-1] == [[False, True, False], [True, False, True]]


def test_positions_do_not_count_padding():
    seen = []

    class Looking(CommitRule):
        name = "looking"

        def select(self, scores, where):
            seen.append(where.position.tolist())
            return torch.zeros_like(scores, dtype=torch.bool)

    tokens = torch.tensor([[0, 0, 3, MASK, MASK], [3, 3, 3, MASK, MASK]])
    real = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"mask_token_id": MASK, "attention_mask": real, "steps": 1, "commit": Looking()}
    sample(three, tokens, **options)
    assert [[1, 2], [3, 4]] in seen


def test_of_two_written_tokens_the_one_that_was_less_sure_is_masked_again_more_often():
    table = torch.zeros(4, V)
    table[0, 3] = 5.0  # probability 0.955; the others have 0.125
    out = sample(
        lambda tokens, rows: table[rows % 4],
        torch.full((3000, 4), MASK),
        mask_token_id=MASK,
        plan=[2, 1, 1],
        remasking="left_to_right",
        remask_fraction=0.5,
        remask="confidence",
        seed=0,
    )
    again = out.revealed_in[:, :2] == 3  # one of the two, in the pass after the second
    assert (again.sum(1) == 1).all()
    share = float(again[:, 1].double().mean())
    assert share == pytest.approx(1 / (1 + math.exp(0.125 - 0.955)), abs=0.03)


class Spoiled(OrderPolicy):
    """From the left, but NaN for these rows from this position on."""

    name = "spoiled"

    def __init__(self, rows, start):
        self.rows, self.start = torch.tensor(rows), start

    def score(self, row, position, noise, step=0):
        wrong = torch.isin(row, self.rows) & (position >= self.start)
        return (-position.double()).masked_fill(wrong, math.nan)


def test_a_known_order_that_is_nan_names_the_first_row_and_the_pass_that_would_follow():
    tokens = torch.full((4, 8), MASK)
    tokens[:, 7] = 1
    options = {"mask_token_id": MASK, "block_ends": [4, 8], "steps": [3, 2]}
    with pytest.raises(InvalidValueError, match=r"are NaN, at pass 4 for row 1$"):
        sample(three, tokens, remasking=Spoiled([1, 3], 4), **options)
    # what is no mask needs no score
    out = sample(three, tokens, remasking=Spoiled([1, 3], 7), **options)
    assert out.sequences.tolist() == [[3] * 7 + [1]] * 4


def test_a_score_that_is_nan_names_the_first_row():
    class Late(ConfidencePolicy):
        name = "late"

        def score_at(self, probs, tokens, where):
            wrong = (where.row >= 1) & (where.position == 2) & (where.step == 1)
            return probs.amax(1).masked_fill(wrong, math.nan)

    with pytest.raises(InvalidValueError, match=r"are NaN, at pass 2 for row 1$"):
        sample(three, torch.full((3, 4), MASK), mask_token_id=MASK, remasking=Late())


class Whole(Denoiser):
    """Gives logits of every position, the last one first, and where the wanted ones are."""

    def __init__(self, table):
        self.table = table

    def __call__(self, tokens, rows):
        return self.table.flip(0), len(self.table) - 1 - rows


@pytest.mark.parametrize("ways", [{}, {"edit_threshold": 0.3}, {"revoke_threshold": 0.3}])
def test_a_model_may_give_more_logits_than_it_is_asked_for_in_any_order(ways):
    table = torch.randn(16, V, generator=torch.Generator().manual_seed(0)) * 2
    options = {"mask_token_id": MASK, "steps": 4, **ways}
    tokens = torch.full((2, 8), MASK)
    out = sample(Whole(table), tokens, **options)
    plain = sample(lambda tokens, rows: table[rows], tokens, **options)
    assert (
        out.sequences.tolist()
        == plain.sequences.tolist()
        == [*table[:, :MASK].argmax(1).view(2, 8).tolist()]
    )
