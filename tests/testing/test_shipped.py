"""Every plug-in that ships passes the suite of its kind."""

import sys
import tempfile
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from released import write
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

import mdm_schedules as mdm
from mdm_schedules.models import get_adapter, models
from mdm_schedules.sampling.commits import commits
from mdm_schedules.sampling.policies import get_policy, policies
from mdm_schedules.schedules.base import schedules
from mdm_schedules.testing import (
    check_adapter,
    check_commit_rule,
    check_objective,
    check_policy,
    check_schedule,
)
from mdm_schedules.tuning.objectives import (
    GenerationObjective,
    LikelihoodObjective,
    ProfileObjective,
    TeacherForcedObjective,
)

MASK = 4


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.8,
    )
    config.mask_token_id = MASK
    return BertForMaskedLM(config).eval()


# what each class is built with, where it needs anything; a new one without an entry here fails
SCHEDULES = {
    "beta": "beta(a=0.9, b=0.3)",
    "polynomial": "polynomial(p=2)",
    "tabulated": "tabulated(alpha=[0, 0.2, 0.5, 1])",
}
COMMITS = {
    "threshold": "threshold(0.6)",
    "entropy_bound": "entropy_bound(1.5)",
    "klass": "klass(kl=2.0)",
}


@pytest.mark.parametrize("name", schedules.names())
def test_schedules_that_ship_conform(name):
    check_schedule(mdm.get_schedule(SCHEDULES.get(name, name)))


@pytest.mark.parametrize("name", policies.names())
def test_policies_that_ship_conform(name):
    check_policy(get_policy(name))


@pytest.mark.parametrize("name", commits.names())
def test_commit_rules_that_ship_conform(name):
    check_commit_rule(commits.read(COMMITS.get(name, name)))


def roberta():
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        initializer_range=0.8,
        mask_token_id=MASK,
    )
    return RobertaForMaskedLM(config).eval()


# the released family whose small model each native architecture is tried with
NATIVE = {
    "mdm_llama": "llada",
    "mdm_qwen2": "dream",
    "mdm_qwen3": "sdar",
    "mdm_qwen3_moe": "llada_moe",
    "mdm_glm4_moe": "llada2",
}


def native(family):
    """A small released model, loaded natively."""
    from mdm_schedules.integrations.transformers.native import load_native

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), family)
        return load_native(folder).eval()


def adapted(name, bert):
    """A small model for each adapter, and what the suite must be given with it."""
    if name == "masked_lm":
        return bert, {}
    if name == "callable":
        table = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
        return (lambda tokens: table[tokens]), {"tokens": torch.arange(16).view(2, 8)}
    if name in NATIVE:
        return native(NATIVE[name]), {}
    kind = {"lladamoe": "llada", "llada_moe": "llada", "Dream": "dream"}.get(name, name)
    kind = "llada2" if kind.startswith("llada2") else kind
    return FAMILIES[kind]().eval(), {}


@pytest.mark.parametrize("name", models.names())
def test_adapters_that_ship_conform(name, bert):
    model, options = adapted(name, bert)
    adapter = models.get(name)(model)
    check_adapter(adapter, mask_token_id=adapter.mask_token_id or 19, registered=False, **options)


def test_an_adapter_of_a_model_that_counts_positions_from_its_padding_conforms():
    check_adapter(get_adapter(roberta()))


def objectives(bert):
    prompts = [[5, 6], [7, 8, 9], [10], [11, 12]]
    rows = torch.randint(5, 30, (3, 6), generator=torch.Generator().manual_seed(1))
    written = {"max_new_tokens": 4, "steps": 2}
    instances = list(zip(prompts, range(4), strict=True))
    yield GenerationObjective(bert, instances, lambda out, answer: float(out.sum()), **written)
    yield TeacherForcedObjective(bert, rows, steps=3)
    yield TeacherForcedObjective(bert, rows, steps=3, remasking="entropy")
    yield LikelihoodObjective(bert, bert_judge(bert), prompts, **written)
    yield ProfileObjective(mdm.InformationProfile([2.0, 1.0, 0.5, 0.4, 0.3, 0.2]), steps=3)
    yield lambda schedule: schedule.alpha(0.5)


def bert_judge(bert):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(vocab_size=bert.config.vocab_size, **sizes)).eval()


@pytest.mark.parametrize("number", range(6))
def test_objectives_that_ship_conform(number, bert):
    pytest.importorskip("optuna")
    check_objective(list(objectives(bert))[number], tolerance=1e-4)


def test_the_suites_are_reached_without_a_test_framework():
    import subprocess

    code = (
        "import sys\nsys.modules['pytest'] = None\n"
        "from mdm_schedules.testing import check_policy\n"
        "from mdm_schedules.sampling.policies import get_policy\n"
        "check_policy(get_policy('margin'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
