"""Each suite notices each planted fault, and names it."""

from types import SimpleNamespace

import pytest
import torch

from mdm_schedules.models import ModelAdapter
from mdm_schedules.models.function import FunctionAdapter
from mdm_schedules.sampling import CommitRule, ConfidencePolicy, OrderPolicy
from mdm_schedules.sampling.commits import Threshold
from mdm_schedules.sampling.policies import LeftToRight, Margin, Random
from mdm_schedules.testing import (
    check_adapter,
    check_commit_rule,
    check_objective,
    check_policy,
)
from mdm_schedules.tuning.objectives import Objective, Scores


def derive(base, **body):
    """A subclass with these attributes."""
    return type("Broken", (base,), {"name": "broken", **body})


def fails(check, plugin, message, **options):
    with pytest.raises(AssertionError, match=message):
        check(plugin, **options)


# --- policies


def by_argument(change):
    """A score that does something wrong to the right one."""
    return lambda self, probs, tokens: change(probs.gather(1, tokens[:, None])[:, 0], probs, tokens)


def write(score, probs, tokens):
    probs.mul_(0.5)
    return score


def count_calls(score, probs, tokens, calls=[]):  # noqa: B006
    calls.append(1)
    return score + len(calls)


CONFIDENCE_FAULTS = {
    r"finite numbers, no NaN": lambda score, probs, tokens: score * torch.nan,
    r"must return a tensor \[5\], got \(5, 7\)": lambda score, probs, tokens: probs,
    r"must return a tensor \[5\], got list": lambda score, probs, tokens: score.tolist(),
    r"must return floats, got torch.int64": lambda score, probs, tokens: tokens,
    r"score writes into its argument": write,
    r"score of a row depends on the batch": lambda score, probs, tokens: score - score.mean(),
    r"another answer when asked again": count_calls,
    r"global generator": lambda score, probs, tokens: score + torch.rand(len(score)),
    r"score raised ZeroDivisionError": lambda score, probs, tokens: score / (1 // 0),
}


@pytest.mark.parametrize("message", CONFIDENCE_FAULTS)
def test_a_fault_of_a_confidence_policy_is_named(message):
    broken = derive(ConfidencePolicy, score=by_argument(CONFIDENCE_FAULTS[message]))
    fails(check_policy, broken(), message, registered=False)


def order(change):
    def score(self, row, position, noise, step=0):
        return change(Random.score(self, row, position, noise, step), row, position, noise)

    return score


ORDER_FAULTS = {
    r"finite numbers, no NaN": lambda score, row, position, noise: score.log() * torch.nan,
    r"must return a tensor \[2000, 4\], got \(2000, 1\)": lambda score, *_: score[:, :1],
    r"score writes into its argument": lambda score, row, position, noise: score + position.add_(1),
    r"score of a row depends on the batch": lambda score, row, position, noise: score + row,
    r"score of a position depends on the others": lambda score, *_: score.cumsum(1),
}


@pytest.mark.parametrize("message", ORDER_FAULTS)
def test_a_fault_of_an_order_policy_is_named(message):
    broken = derive(OrderPolicy, score=order(ORDER_FAULTS[message]))
    fails(check_policy, broken(), message, registered=False)


def test_a_policy_that_lies_about_itself_is_found_out():
    fails(check_policy, derive(Margin, token_only=True)(), "depends on other", registered=False)
    left = derive(LeftToRight, random_order=True)
    fails(check_policy, left(), "random_order is True, but", registered=False)
    counts = derive(OrderPolicy, random_counts=True, score=order(lambda score, *_: score + 3))
    fails(check_policy, counts(), "must be 1 - u", registered=False)
    fails(check_policy, derive(Random, random_order=1)(), "True or False", registered=False)


def test_a_policy_without_its_name_or_its_base_is_refused():
    fails(check_policy, object(), "must derive from ConfidencePolicy or OrderPolicy")
    fails(check_policy, derive(Margin, name=None)(), "needs a class attribute name")
    fails(check_policy, derive(Margin)(), "cannot be reached by its name")
    fails(check_policy, derive(Margin, name="random")(), "stands for .*Random.*, not for it")


# --- commit rules


def rule(count, **body):
    return derive(CommitRule, policy="low_confidence", count=count, **body)()


def above(scores):
    return (scores > 0.5).sum(1)


def overwrite(self, scores):
    scores.clamp_(min=0)
    return above(scores)


COMMIT_FAULTS = {
    r"must return a tensor \[7\], got \(7, 6\)": lambda self, scores: scores > 0.5,
    r"must return a LongTensor, got torch.float32": lambda self, scores: above(scores).float(),
    r"count must not be negative": lambda self, scores: above(scores) - 1,
    r"masked positions; a score of -inf is none": lambda self, scores: above(scores) * 0 + 3,
    r"count writes into its argument": overwrite,
    r"depends on the batch": lambda self, scores: (scores >= scores.max()).sum(1),
    r"how many masks other rows have": lambda self, scores: above(scores).clamp(
        max=scores.shape[1] // 3
    ),
    r"count raised KeyError": lambda self, scores: {}["nothing"],
}


@pytest.mark.parametrize("message", COMMIT_FAULTS)
def test_a_fault_of_a_commit_rule_is_named(message):
    fails(check_commit_rule, rule(COMMIT_FAULTS[message]), message, registered=False)


def select(change):
    def choose(self, scores, where):
        return change(scores > 0.5, scores, where)

    return choose


SELECT_FAULTS = {
    r"must return a bool tensor \[7, 6\], got \(7,\)": lambda chosen, *_: chosen.sum(1),
    r"must return a bool tensor \[7, 6\]": lambda chosen, *_: chosen.float(),
    r"choice in a row depends on the batch": lambda chosen, scores, where: scores >= scores.max(),
    r"how many masks other rows have": lambda chosen, scores, where: (
        chosen & (torch.arange(scores.shape[1]) < scores.shape[1] // 3)
    ),
    r"select writes into its argument": lambda chosen, scores, where: scores.clamp_(0) > 0.5,
}


@pytest.mark.parametrize("message", SELECT_FAULTS)
def test_a_fault_of_a_rule_that_selects_is_named(message):
    broken = derive(CommitRule, policy="low_confidence", select=select(SELECT_FAULTS[message]))()
    fails(check_commit_rule, broken, message, registered=False)


def test_a_rule_whose_watch_changes_what_it_sees_is_found_out():
    def watch(self, logits, probs, where):
        probs.mul_(0.5)

    body = {"policy": "low_confidence", "count": lambda self, scores: above(scores)}
    broken = derive(CommitRule, watch=watch, **body)()
    fails(check_commit_rule, broken, "watch writes into its argument", registered=False)

    def batch(self, logits, probs, where):
        where.remember("broken")[:] += 1

    def choose(self, scores, where):
        return (scores > 0.5) & (where.remember("broken").gather(1, where.offset) > 3)

    broken = derive(CommitRule, policy="low_confidence", watch=batch, select=choose)()
    fails(check_commit_rule, broken, "come one at a time", registered=False)


def test_a_policy_may_score_by_place_and_must_not_by_the_batch():
    def by_place(self, probs, tokens, where):
        return -where.offset.float()

    check_policy(derive(ConfidencePolicy, score_at=by_place)(), registered=False)

    check_policy(
        derive(OrderPolicy, score_at=lambda s, where, n: -where.offset.double())(), registered=False
    )
    fails(check_policy, derive(ConfidencePolicy)(), "needs score", registered=False)


def test_a_commit_rule_that_fits_no_policy_is_refused():
    right = {"count": lambda self, scores: above(scores)}
    check_commit_rule(rule(**right), registered=False)
    fails(check_commit_rule, object(), "must derive from CommitRule")
    fails(check_commit_rule, rule(**right, name=""), "needs a class attribute name")
    fails(check_commit_rule, rule(**right), "cannot be reached by its name")
    for policy, message in (("random", "looks at no model"), ("nothing", "name of a policy")):
        broken = derive(CommitRule, policy=policy, **right)()
        fails(check_commit_rule, broken, message, registered=False)
    silent = {"check": lambda self, policy, remask_fraction: None}
    fails(
        check_commit_rule, rule(**right, **silent), "must raise InvalidValueError", registered=False
    )
    twice = derive(Threshold, name="entropy_bound")(0.5)
    fails(check_commit_rule, twice, "stands for")


# --- adapters

VOCAB, MASK = 20, 19


class Bigram(torch.nn.Module):
    """The smallest model with a head: logits of its own token, and of the padding if it may."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(VOCAB, 8)
        self.head = torch.nn.Linear(8, VOCAB)
        self.config = SimpleNamespace(model_type="bigram", mask_token_id=MASK)
        self.device = torch.device("cpu")

    def forward(self, tokens):
        return self.head(self.embedding(tokens))

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head


class BigramAdapter(ModelAdapter):
    name = "bigram"
    max_length = None

    def forward(self, tokens, attention_mask):
        return self.model(tokens)


def test_an_adapter_without_faults_conforms():
    check_adapter(BigramAdapter(Bigram()), registered=False)


def wrong_forward(change):
    return lambda self, tokens, attention_mask: change(self, self.model(tokens), tokens)


def write_tokens(self, logits, tokens):
    tokens.zero_()
    return logits


def leave_hook(self, tokens, rows, attention_mask):
    answer = self.forward(tokens, attention_mask).flatten(0, 1)[rows]
    self.model.head.register_forward_hook(lambda module, args, out: out * 2)
    return answer


def noisy(self, logits, tokens):
    shift = torch.arange(len(tokens))[:, None, None].float()
    return logits + shift


def padded(self, logits, tokens):
    return logits + tokens.shape[1]


ADAPTER_FAULTS = {
    r"forward returns NaN": {"forward": wrong_forward(lambda self, x, t: x * torch.nan)},
    r"must return logits \[2, 8, 'V'\], got \(16, 20\)": {
        "head": None,
        "forward": wrong_forward(lambda self, x, t: x.flatten(0, 1)),
    },
    r"logits must be floats": {"forward": wrong_forward(lambda self, x, t: x.long())},
    r"forward writes into its argument": {"forward": wrong_forward(write_tokens)},
    r"logits of a row depend on the batch": {"forward": wrong_forward(noisy), "head": None},
    r"logits of some rows differ": {
        "logits": lambda self, tokens, rows, mask: self.model(tokens).flatten(0, 1)[rows - 1]
    },
    r"logits of 6 rows must be": {
        "logits": lambda self, tokens, rows, mask: self.model(tokens).flatten(0, 1)
    },
    r"is a hook left on the model": {"logits": leave_hook},
    r"fewer than vocab_size = 21": {"vocab_size": VOCAB + 1},
    r"shift must be 0 or 1": {"shift": 2},
    r"max_length must be a number or None": {"max_length": "long"},
    r"head must be a module or None": {"head": lambda hidden: hidden},
    r"accepts\(object\) raised AttributeError": {"accepts": classmethod(lambda cls, m: m.config)},
    r"accepts must return True or False": {"accepts": classmethod(lambda cls, m: None)},
    r"no mask_token_id": {"mask_token_id": None},
    r"padding on the left changes the logits": {
        "forward": wrong_forward(padded),
        "head": None,
        "check_padding": lambda self: None,
    },
    r"generate changed the model's weights": {
        "check_tokens": lambda self, *_: self.model.head.bias.data.add_(1)
    },
}


@pytest.mark.parametrize("message", ADAPTER_FAULTS)
def test_a_fault_of_an_adapter_is_named(message):
    broken = derive(BigramAdapter, **ADAPTER_FAULTS[message])
    fails(check_adapter, broken(Bigram()), message, registered=False)


def test_an_adapter_without_its_name_or_its_base_is_refused():
    fails(check_adapter, Bigram(), "must derive from mdm_schedules.models.ModelAdapter")
    fails(check_adapter, BigramAdapter(Bigram()), "cannot be reached by its name")
    function = FunctionAdapter(lambda tokens: torch.zeros(*tokens.shape, 9))
    fails(check_adapter, function, "give tokens=", mask_token_id=8)


# --- objectives


class Right(Objective):
    name = "right"
    num_instances = 4
    steps = 3

    def __call__(self, schedule, steps=None, instances=None):
        asked = range(4) if instances is None else instances
        return Scores([i + sum(schedule.plan(8, steps).square().tolist()) for i in asked])

    def plan_key(self, schedule, steps):
        return str(schedule.plan(8, steps).tolist())


def answer(change):
    def call(self, schedule, steps=None, instances=None):
        return change(list(Right.__call__(self, schedule, steps, instances).values), instances)

    return call


def random_scores(values, instances):
    return [value + float(torch.rand(())) for value in values]


OBJECTIVE_FAULTS = {
    r"must give finite numbers": {"__call__": answer(lambda v, i: [float("nan")] * len(v))},
    r"must give 4 scores for .*, got 1": {"__call__": answer(lambda v, i: sum(v))},
    r"another score when asked again": {"__call__": answer(random_scores)},
    r"depends on the order of": {"__call__": answer(lambda v, i: sorted(v))},
    r"depends on the others that are asked for": {
        "__call__": answer(lambda v, i: [value + len(v) for value in v])
    },
    r"plan_key is the same for .* whose scores differ": {"plan_key": lambda self, *_: "all"},
    r"plan_key must return text": {"plan_key": lambda self, *_: 3},
    r"plan_key raised KeyError": {"plan_key": lambda self, *_: {}["nothing"]},
    r"the objective failed for .*ValueError: oh": {
        "__call__": answer(lambda v, i: (_ for _ in ()).throw(ValueError("oh")))
    },
    r"passes must be an integer": {"__call__": answer(lambda v, i: Scores(v, passes=-1))},
    r"direction must be": {"direction": "up"},
    r"metric_name must be text": {"metric_name": 3},
    r"random_order must be True or False": {"random_order": None},
    r"settings as JSON raised TypeError": {"settings": {"a": object()}},
    r"sampler must be a dict that JSON gives back": {"sampler": {"a": (1, 2)}},
    r"steps must be an integer >= 1": {"steps": 0},
    r"estimate_profile of an objective must be a method": {"estimate_profile": 3},
    r"must have an attribute num_instances": {
        "num_instances": None,
        "__call__": lambda self, schedule, instances: 1.0,
    },
}


@pytest.mark.parametrize("message", OBJECTIVE_FAULTS)
def test_a_fault_of_an_objective_is_named(message):
    fails(check_objective, derive(Right, **OBJECTIVE_FAULTS[message])(), message)


def test_objectives_without_faults_conform():
    check_objective(Right())
    check_objective(lambda schedule, steps: float(schedule.plan(8, steps)[0]), steps=4)
    check_objective(derive(Right, __call__=answer(random_scores))(), repeatable=False)
    fails(check_objective, 3, "must be a function schedule -> score")
    fails(check_objective, lambda schedule: 1.0, "takes no `steps`", steps=4)


def test_a_policy_that_remembers_is_found_out():
    """The end-to-end check finds what the calls alone cannot."""

    class Remembering(Margin):
        name = "remembering"

        def score(self, probs, tokens):
            if probs.shape[1] == 12 and len(probs) > 8:  # the small model with the whole batch
                return super().score(probs, tokens).flip(0)
            return super().score(probs, tokens)

    fails(check_policy, Remembering(), "tokens of a row depend on the batch", registered=False)
    check_policy(Remembering(), registered=False, sampled=False)
