"""One model under several calls, and models without values."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from encoders import small_bert
from transformers import BertForMaskedLM

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidValueError, ObjectiveError

PROMPT = torch.tensor([[5, 6, 7]])
OPTIONS = {"mask_token_id": 3, "max_new_tokens": 16, "steps": 16, "seed": 0}


def bert() -> BertForMaskedLM:
    return small_bert(vocab_size=40, hidden_dropout_prob=0.3, initializer_range=0.02)


def test_a_call_that_ends_first_leaves_the_mode_to_the_one_under_way() -> None:
    model = bert().train()
    alone = mdm.generate(model, PROMPT, **OPTIONS).sequences
    inside, go, passes = threading.Event(), threading.Event(), []
    short = {**OPTIONS, "max_new_tokens": 2, "steps": 1}

    def wait(info: object) -> None:
        inside.set()
        go.wait(30)

    def end_other(info: object) -> None:
        passes.append(info)
        if len(passes) == 2:
            go.set()
            other.join(30)

    other = threading.Thread(target=lambda: mdm.generate(model, PROMPT, callback=wait, **short))
    other.start()
    assert inside.wait(30)
    together = mdm.generate(model, PROMPT, callback=end_other, **OPTIONS).sequences
    assert torch.equal(alone, together)
    assert all(module.training for module in model.modules())


@pytest.mark.slow
def test_threads_on_a_model_in_train_mode_write_what_they_write_alone() -> None:
    model = bert().train()
    alone = [mdm.generate(model, PROMPT, **{**OPTIONS, "seed": i}).sequences for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(mdm.generate, model, PROMPT, **{**OPTIONS, "seed": i % 4})
            for i in range(24)
        ]
        for i, one in enumerate(asked):
            assert torch.equal(one.result().sequences, alone[i % 4])
    assert all(module.training for module in model.modules())


def test_a_model_on_the_meta_device_is_refused() -> None:
    with torch.device("meta"):
        model = bert()
    with pytest.raises(InvalidValueError, match="meta device"):
        mdm.generate(model, PROMPT, **OPTIONS)


def test_a_score_too_large_for_a_float_is_no_score() -> None:
    pytest.importorskip("optuna")
    with pytest.raises(ObjectiveError):
        mdm.tune(lambda schedule: 10**400, n_trials=2)
