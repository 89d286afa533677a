"""Filled positions that are masked again, edited or revoked: bounds, batches, and bad input."""

import math

import pytest
import torch

from mdm_schedules.errors import MDMError
from mdm_schedules.sampling import (
    CommitRule,
    ConfidencePolicy,
    DrawOptions,
    OrderPolicy,
    PositionCalibrated,
    commits,
    get_commit,
    policies,
    sample,
    token_frequencies,
)
from mdm_schedules.sampling.remask import RemaskFraction, get_remask_fraction, remask_key

V, MASK = 20, 0
TABLE = torch.randn(V, V, generator=torch.Generator().manual_seed(0))


def denoiser(tokens, rows):
    """Logits that depend on all tokens up to the position, in order."""
    return TABLE[tokens].cumsum(1).flatten(0, 1), rows


def masks(rows=3, length=14, prompt=2):
    tokens = torch.full((rows, length), MASK)
    tokens[:, :prompt] = 1 + torch.arange(rows * prompt).view(rows, prompt) % (V - 1)
    return tokens


def run(tokens, **options):
    options = {"mask_token_id": MASK, "seed": 3, "draw": DrawOptions(1.0)} | options
    return sample(denoiser, tokens, **options)


WAYS = {
    "edit": {"edit_threshold": 0.2, "max_post_steps": 3},
    "revoke": {"revoke_threshold": 0.4},
    "both": {"edit_threshold": 0.5, "revoke_threshold": 0.3},
    "confidence": {"remask_fraction": 0.4, "remask": "confidence"},
    "rescale": {"remask_fraction": "rescale(0.6)"},
    "loop": {"remask_fraction": "loop(0.3)"},
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("remasking", policies.names())
def test_passes_are_bounded_the_prompt_stays_and_rows_are_their_own(remasking, way):
    tokens = masks()
    tokens[1, 5:9] = 7  # a row with fewer masks
    blocks = {"block_ends": [8, 14], "steps": [5, 4], "remasking": remasking}
    seeds = [5, 6, 7]
    out = run(tokens, **blocks, **WAYS[way], seed=seeds)
    given = tokens != MASK
    assert not (out.sequences == MASK).any()
    assert torch.equal(out.sequences[given], tokens[given])
    assert out.nfe <= 9 + 2 * WAYS[way].get("max_post_steps", 0)
    assert torch.equal(out.plan.sum(1), (tokens == MASK).sum(1))
    for row in range(len(tokens)):
        one = slice(row, row + 1)
        alone = run(tokens[one], **blocks, **WAYS[way], seed=seeds[one])
        assert torch.equal(alone.sequences[0], out.sequences[row])
        assert alone.nfe_per_row[0] == out.nfe_per_row[row]
        assert alone.edited[0] == out.edited[row]
    if way == "edit":
        assert int(out.edited.sum()) > 0
    elif remasking != "ancestral":
        assert out.nfe == 9, "the passes stay as planned"
        assert bool((out.drawn.sum(1) > out.plan.sum(1)).any())


@pytest.mark.parametrize("rule", [*commits.names(), "klass(confidence=0.1, kl=3.0, history=1)"])
def test_rules_go_with_edits_and_revoking_and_rows_are_their_own(rule):
    remasking = get_commit(rule).policy or "low_confidence"
    tokens = masks(rows=3, length=12)
    options = {"commit": get_commit(rule), "remasking": remasking, "steps": [5, 4]}
    options |= {"block_ends": [7, 12], "edit_threshold": 0.3, "revoke_threshold": 0.2}
    out = run(tokens, **options, max_post_steps=2, seed=[1, 2, 3])
    assert not (out.sequences == MASK).any()
    assert out.nfe <= 9 + 4
    for row in range(3):
        one = slice(row, row + 1)
        alone = run(tokens[one], **options, max_post_steps=2, seed=[row + 1])
        assert torch.equal(alone.sequences[0], out.sequences[row])


def test_thresholds_that_nothing_passes_change_nothing():
    for remasking in ("low_confidence", "random", "left_to_right"):
        plain = run(masks(), steps=5, remasking=remasking)
        edited = run(masks(), steps=5, remasking=remasking, edit_threshold=1.0, max_post_steps=9)
        assert torch.equal(edited.sequences, plain.sequences)
        assert edited.nfe == 6, "one look after the last mask, which found nothing"
    revoked = run(masks(), steps=5, revoke_threshold=0.0)
    assert torch.equal(revoked.sequences, run(masks(), steps=5).sequences)


def test_edits_stay_in_the_block_under_way():
    tokens, states = masks(rows=1), []
    run(
        tokens,
        block_ends=[8, 14],
        steps=[3, 3],
        edit_threshold=0.1,
        max_post_steps=2,
        callback=lambda info: states.append(info.tokens.clone()),
    )
    second = [i for i, state in enumerate(states) if (state[0, 8:] != MASK).any()]
    for i in second:
        assert torch.equal(states[i][0, :8], states[second[0] - 1][0, :8])


def test_a_loop_fills_most_then_stands_still_then_ends():
    out = run(masks(rows=1, length=42), steps=20, remask_fraction="loop(0.1, start=0.5, stop=0.9)")
    plan, drawn = out.plan[0].tolist(), out.drawn[0].tolist()
    assert out.nfe == 20
    assert plan[10:18] == [0] * 8
    assert min(plan[:10] + plan[18:]) > 0
    assert all(3 <= count <= 4 for count in drawn[10:18])  # a tenth of 33 or so


def test_rescaled_and_capped_shares_are_those_of_the_paper():
    plan = [6] * 6
    for text, share in (("rescale(0.5)", None), ("0.2", 0.2), ("cap(0.2)", 0.2)):
        out = run(masks(rows=1, length=38), plan=plan, remask_fraction=text)
        again = (out.drawn - out.plan)[0].tolist()
        for step, count in enumerate(again):
            done, room = 6 * step, 36 - 6 * (step + 1)
            wanted = 0.5 * min(done, room) if share is None else min(share * done, room)
            assert count == math.floor(wanted + 0.5)


def test_remasking_by_confidence_follows_remdm_conf():
    """Of two tokens the less likely one goes first with chance e^-p / (e^-p + e^-q)."""
    uniform = torch.rand(
        200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    key = remask_key(uniform, torch.tensor([[0.1, 0.9]], dtype=torch.float64).expand(200_000, 2))
    share = float((key[:, 0] < key[:, 1]).double().mean())
    assert abs(share - 1 / (1 + math.exp(-0.8))) < 0.005


def test_the_host_reads_once_a_pass_at_most(monkeypatch):
    calls, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: (calls.append(1), cpu(self))[1])

    def reads(**options):
        counts = []
        for length in (10, 18):
            calls.clear()
            out = run(masks(rows=2, length=length), **options)
            counts.append((len(calls), out.nfe))
        (few, short), (many, long) = counts
        return (many - few) / (long - short)

    ways = {"edit_threshold": 0.9, "revoke_threshold": 0.1}
    assert reads() == reads(edit_threshold=0.9) == reads(remask_fraction=0.3) == 0
    assert reads(commit=get_commit("threshold(1.0)")) == 1
    assert reads(commit=get_commit("threshold(1.0)"), **ways) == reads(**ways) == 1


class Odd(ConfidencePolicy):
    name = "odd"

    def __init__(self, answer):
        self.answer = answer

    def score(self, probs, tokens):
        return self.answer(probs)


class OddOrder(OrderPolicy):
    name = "odd_order"

    def score(self, row, position, noise, step=0):
        return position.double()[:, :1]


class OddRule(CommitRule):
    name = "odd_rule"

    def select(self, scores, where):
        return scores


class OddCount(CommitRule):
    name = "odd_count"

    def __init__(self, answer):
        self.answer = answer

    def count(self, scores):
        return self.answer((scores > 0.5).sum(1))


class OddFraction(RemaskFraction):
    name = "odd_fraction"

    def __init__(self, answer, still=range(0)):
        super().__init__(0.5)
        object.__setattr__(self, "answer", answer)
        object.__setattr__(self, "stands", still)

    def wanted(self, done_B, room_B, still):
        return self.answer(done_B)

    def still(self, steps):
        return self.stands


class Nameless(ConfidencePolicy):
    def score(self, probs, tokens):
        return probs.amax(1)


NamelessRule = type("NamelessRule", (CommitRule,), {"count": OddCount.count})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"commit": OddCount(lambda n: n * math.nan)}, r"'odd_count' .* integers \[2\].* float32"),
        ({"commit": OddCount(lambda n: n > 0)}, r"count .* integers \[2\].* bool \[2\]"),
        ({"commit": OddCount(lambda n: n[:1])}, r"integers \[2\].* int64 \[1\]"),
        ({"commit": OddCount(lambda n: 3)}, r"integers \[2\].* got int"),
        ({"commit": NamelessRule()}, "NamelessRule needs a class attribute name"),
        ({"commit": "treshold"}, "Did you mean 'threshold'"),
        ({"commit": 0.9}, "commit must be a rule such as"),
        ({"remasking": Nameless()}, "Nameless needs a class attribute name"),
        ({"remask_fraction": OddFraction(lambda n: n * math.nan)}, r"'odd_fraction' .* integers"),
        ({"remask_fraction": OddFraction(lambda n: n - 5)}, "integers >= 0"),
        ({"remask_fraction": OddFraction(lambda n: n[:1])}, r"integers >= 0 \[3\]"),
        ({"remask_fraction": OddFraction(lambda n: None)}, "got None"),
        (
            {"remask_fraction": OddFraction(lambda n: n, range(4)), "steps": 4},
            "between the first and the last of 4",
        ),
        ({"remask": True}, "confidence, got True"),
        ({"remask": 10**5000}, "cannot be printed"),
        ({"remasking": Odd(lambda probs: probs.amax(1) * math.nan)}, r"'odd' \(Odd\).*NaN"),
        ({"remasking": Odd(lambda probs: probs)}, r"'odd' \(Odd\) must return floats \[8\]"),
        ({"remasking": Odd(lambda probs: None)}, r"'odd' \(Odd\) must return a tensor"),
        ({"remasking": OddOrder()}, r"'odd_order' \(OddOrder\) must return floats \[2, 4\]"),
        ({"commit": OddRule()}, r"commit rule 'odd_rule' \(OddRule\) must return bool \[2, 4\]"),
        ({"commit": OddRule(), "remasking": "dilated"}, "knows its order beforehand"),
        (
            {"commit": get_commit("klass"), "remasking": "pc"},
            "rule 'klass' needs remasking='low_conf",
        ),
        ({"commit": get_commit("factor"), "remask_fraction": 0.1}, "not both"),
        ({"revoke_threshold": 0.1, "remask_fraction": 0.1}, "not both"),
        ({"revoke_threshold": 1.1}, "revoke_threshold"),
        ({"edit_threshold": math.nan}, "edit_threshold"),
        ({"max_post_steps": 3}, "needs an edit_threshold"),
        ({"remask": "confident"}, "Did you mean 'confidence'"),
        ({"remask": 0.3}, "remask_fraction=0.3"),
        ({"remask_fraction": "resale(0.3)"}, "rescale"),
        ({"remask_fraction": "loop(0.3, begin=1)"}, "no parameter 'begin'"),
        ({"remask_fraction": "loop(0.3)"}, "give steps"),
        ({"remask_fraction": "loop(0.3)", "plan": [6, 6]}, "got a plan"),
        ({"remasking": PositionCalibrated(background="nowhere.safetensors")}, "no file nowhere"),
    ],
)
def test_bad_input_is_refused_before_the_first_pass(options, says):
    def never(tokens, rows):
        raise AssertionError("the model was called")

    with pytest.raises(MDMError, match=says):
        sample(never, masks(), mask_token_id=MASK, **options)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: get_commit("klass(confidense=0.5)"), "Did you mean 'confidence'"),
        (lambda: get_commit("local_leap(0.5, 0.9)"), "relaxed"),
        (lambda: get_commit("factor(0)"), "factor"),
        (lambda: policies.read("pc(decay=-1)"), "decay"),
        (lambda: policies.read("dilated(base=1)"), "base"),
        (lambda: get_remask_fraction("loop(0.1, start=0.9, stop=0.1)"), "at most stop"),
        (lambda: PositionCalibrated(background=[[0.1]]), "token_frequencies"),
        (lambda: PositionCalibrated(background=[0.1, math.nan]), "finite"),
        (lambda: token_frequencies([[1, 99]], 10), r"\[0, 9\]"),
        (lambda: token_frequencies([], 10), "none|lists of token ids"),
    ],
)
def test_parameters_out_of_range_are_refused(make, says):
    with pytest.raises(MDMError, match=says):
        make()


def test_a_score_that_is_nan_in_a_later_pass_names_the_policy():
    def late(probs):
        return probs.amax(1).masked_fill(probs.amax(1) > 0.999, math.nan)

    table = torch.eye(V)[[3]] * 40
    with pytest.raises(MDMError, match=r"policy 'odd' \(Odd\) gave scores that are NaN, at pass 1"):
        sample(
            lambda tokens, rows: table[rows * 0], masks(), mask_token_id=MASK, remasking=Odd(late)
        )


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_a_known_order_that_is_nan_in_a_block_names_the_policy(fraction):
    class Late(OrderPolicy):
        name = "late"

        def score(self, row, position, noise, step=0):
            return -position.double() if position.shape[1] == 4 else position * math.nan

    with pytest.raises(MDMError, match=r"policy 'late' \(Late\) gave scores that are NaN"):
        run(masks(), remasking=Late(), remask_fraction=fraction)


@pytest.mark.parametrize("fraction", [0.0, 0.3])
@pytest.mark.parametrize("score", [math.inf, -math.inf])
def test_a_known_order_may_be_infinite(fraction, score):
    class Infinite(OrderPolicy):
        name = "infinite"

        def score(self, row, position, noise, step=0):
            return torch.full(position.shape, score, dtype=torch.float64)

    out = run(masks(), remasking=Infinite(), remask_fraction=fraction, steps=6)
    assert (out.sequences != MASK).all()
    same = run(masks(), remasking="left_to_right", remask_fraction=fraction, steps=6)
    assert torch.equal(out.sequences, same.sequences)  # ties are revealed from the left


def test_a_known_order_of_another_shape_is_refused():
    class Short(OrderPolicy):
        name = "short"

        def score(self, row, position, noise, step=0):
            return -position.double() if position.shape[1] == 4 else position[:1].double()

    with pytest.raises(MDMError, match=r"'short' \(Short\) must return floats \[3, 14\]"):
        run(masks(), remasking=Short())


def test_the_loop_takes_the_spec_of_a_rule():
    spec, rule = (
        run(masks(), commit=commit, draw=DrawOptions())
        for commit in ("threshold(0.2)", get_commit("threshold(0.2)"))
    )
    assert torch.equal(spec.sequences, rule.sequences)
    assert spec.nfe == rule.nfe < 12


def test_background_frequencies_from_prompts_and_files(tmp_path):
    from safetensors.torch import save_file

    frequency = token_frequencies([[1, 1, 2], [1]], V)
    assert frequency[1] == 0.75
    assert frequency[2] == frequency[3] == 0.25
    save_file({"frequencies": frequency}, tmp_path / "f.safetensors")
    path = str(tmp_path / "f.safetensors")
    given = run(masks(), steps=6, remasking=PositionCalibrated(0.1, background=frequency))
    read = run(masks(), steps=6, remasking=f"pc(decay=0.1, background={path!r})")
    assert torch.equal(given.sequences, read.sequences)
    assert repr(PositionCalibrated(background=frequency)) != repr(
        PositionCalibrated(background=frequency.flip(0))
    )
    save_file({"other": frequency}, tmp_path / "g.safetensors")
    with pytest.raises(MDMError, match="no tensor 'frequencies'"):
        run(masks(), steps=6, remasking=PositionCalibrated(background=tmp_path / "g.safetensors"))


def test_pc_of_its_own_prompt_puts_off_what_is_frequent_there():
    tokens = torch.full((1, 40), MASK)
    tokens[0, :38] = 5  # the prompt repeats one token
    probs = torch.full((2, V), 0.2 / (V - 2))
    probs[0, 5], probs[1, 6] = 0.82, 0.80
    place = places_of(tokens)
    score = PositionCalibrated(decay=0.0).score_at(probs, torch.tensor([5, 6]), place)
    assert score[1] > score[0]


def places_of(tokens):
    from mdm_schedules.sampling import Where

    whole = Where.whole(tokens, tokens == MASK).flat()
    return whole.pick((tokens[0] == MASK).nonzero().flatten())
