"""What a policy says of itself, how it is found, and policies of one's own."""

import math

import pytest
import torch

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.sampling import ConfidencePolicy, OrderPolicy, get_policy

MASK = 5


def names(flag):
    return {entry.name for entry in mdm.list_policies() if getattr(get_policy(entry.name), flag)}


def test_what_the_policies_say_of_themselves():
    assert names("random_order") == {"random", "ancestral"}
    assert names("random_counts") == {"ancestral"}
    asks_the_model = {"low_confidence", "margin", "entropy", "pc"}
    assert {
        entry.name
        for entry in mdm.list_policies()
        if isinstance(get_policy(entry.name), ConfidencePolicy)
    } == asks_the_model
    # places cost a pass over the batch, so that only who looks at them is given any
    assert [get_policy(name).looks_at_places for name in sorted(asks_the_model)] == [
        False,
        False,
        False,
        True,
    ]


class Rare(ConfidencePolicy):
    """Reveal what the model finds least probable; a score of the whole distribution."""

    name = "rare"

    def score(self, probs, tokens):
        return -probs.amax(1)


class Place(ConfidencePolicy):
    """Reveal from the right; sees places, not probabilities."""

    name = "place"

    def score_at(self, probs, tokens, where):
        return where.offset.double()


class Sure(ConfidencePolicy):
    """Has nothing of its own: the drawn token's probability."""

    name = "sure"
    token_only = True


class Right(OrderPolicy):
    """Reveal from the right."""

    name = "right"

    def score(self, row, position, noise, step=0):
        return position.double()


def peaked(tokens):
    """Position i holds token i, the surer the further right."""
    logits = torch.zeros(*tokens.shape, 6)
    for place in range(tokens.shape[1]):
        logits[:, place, place] = 1 + place
    return logits


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        (Rare(), [0, 1, 2, 3]),
        (Place(), [3, 2, 1, 0]),
        (Sure(), [3, 2, 1, 0]),
        (Right(), [3, 2, 1, 0]),
        ("low_confidence", [3, 2, 1, 0]),
        ("left_to_right", [0, 1, 2, 3]),
    ],
)
def test_a_policy_of_ones_own_decides_the_order(policy, order):
    revealed = []

    def model(tokens):
        revealed.append((tokens[0] != MASK).nonzero()[:, 0].tolist())
        return peaked(tokens)

    ids = torch.full((1, 4), MASK)
    out = mdm.generate(model, ids, max_new_tokens=0, steps=4, remasking=policy, mask_token_id=MASK)
    assert out.sequences.tolist() == [[0, 1, 2, 3]]
    assert revealed[-4:] == [sorted(order[:count]) for count in range(4)]


def test_a_score_is_asked_for_at_places_too():
    """What `teacher_forced` and the conformance suite call, for each kind of policy."""
    probs, tokens = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]), torch.tensor([1, 2])
    assert Rare().score_at(probs, tokens, None).tolist() == pytest.approx([-0.5, -0.8])
    assert Sure().score_at(probs, tokens, None).tolist() == pytest.approx([0.3, 0.8])


@pytest.mark.parametrize("vocabulary", [3, 512, 513, 1200, 40_000])
def test_the_entropy_of_long_rows_counts_every_token(vocabulary):
    even = torch.full((3, vocabulary), 1 / vocabulary, dtype=torch.float64)
    even[1], even[1, -1] = 0, 1
    score = get_policy("entropy").score(even, torch.zeros(3, dtype=torch.long))
    assert score.tolist() == pytest.approx([-math.log(vocabulary), 0, -math.log(vocabulary)])


def test_a_policy_is_found_by_name_or_spec_or_is_one():
    assert get_policy("pc(decay=0.5)").decay == 0.5
    assert get_policy("dilated(base=3)").base == 3
    assert get_policy("pc").decay == get_policy("pc()").decay == 0.25
    own = Right()
    assert get_policy(own) is own
    with pytest.raises(InvalidTypeError, match=r"must be one of .*margin.*, got 0\.5"):
        get_policy(0.5)
    with pytest.raises(InvalidTypeError, match="remasking must be one of"):
        get_policy(Right)
