"""lm-eval runs the model on tasks, on one process and several, and tasks are objectives."""

import functools
import json
import os
import runpy
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import lm_eval
import numpy as np
import pytest
from lm_eval.utils import make_table
from lm_eval_cases import CODE

import mdm_schedules as mdm
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    UnknownNameError,
)
from mdm_schedules.integrations.lm_eval import lm_eval_objective

pytestmark = pytest.mark.slow


def test_lm_eval_runs_it_by_name(tasks):
    names = ["writes", "chooses", "likes", "rolls"]
    arguments = f"pretrained={CODE},schedule=beta(a=0.9,b=0.3),steps=2,mc_num=8,device=cpu"
    results = lm_eval.simple_evaluate(
        "mdm_schedules",
        arguments,
        tasks=names,
        task_manager=tasks.manager,
        batch_size=4,
        bootstrap_iters=10,
    )
    assert results["results"]["chooses"]["acc,none"] == 1
    assert results["results"]["likes"]["acc,none"] == 0  # check_greedy is off
    assert 2 < results["results"]["rolls"]["bits_per_byte,none"] < 6
    said = results["config"]["model_args"]
    assert (said["schedule"], said["steps"], said["mc_num"]) == ("beta(a=0.9, b=0.3)", 2, 8)
    assert results["config"]["forward_passes_per_answer"] == 1  # answers of one token
    assert "|writes" in make_table(results)


def test_objective_gives_one_score_per_document(tasks, code):
    options = {"task_manager": tasks.manager, "batch_size": 2, "remasking": "random"}
    objective = lm_eval_objective(*code, "writes", steps=1, **options)
    scores = objective("linear").values
    assert scores == [1.0, 0.0, 0.0]
    assert objective.results["results"]["writes"]["exact_match,none"] == pytest.approx(
        np.mean(scores)
    )
    assert objective(mdm.Sine(), steps=4).values == scores  # one token, whatever the schedule
    assert lm_eval_objective(*code, "writes", limit=2, **options)("linear").values == scores[:2]
    assert objective("linear", instances=[2, 0]).values == [scores[2], scores[0]]
    assert (objective.num_instances, objective.remasking, objective.model_name) == (
        3,
        "random",
        "code",
    )
    found = mdm.tune(objective, n_trials=2, steps=1, held_out=0)
    assert found.choice.baseline == pytest.approx(1 / 3)
    assert found.trials[0].passes == 3

    both = lm_eval_objective(*code, "both", metric="exact_match", temperature=0.5, **options)
    assert len(both("linear").values) == 6
    texts = [
        [sample["resps"] for sample in both.results["samples"]["misses"]]
        for _ in range(2)
        if both("sine")
    ]
    assert texts[0] == texts[1]  # the same noise in every call

    # translation error rate: less is better, and a corpus has only one
    rate = lm_eval_objective(*code, "misses", **options)
    [score] = rate("linear").values
    assert (rate.metric, rate.higher_is_better, rate.per_document) == ("ter,none", False, False)
    assert mdm.tune(rate, n_trials=1).choice.baseline == score
    assert score == -rate.results["results"]["misses"]["ter,none"] < 0


def test_threads_that_share_an_objective_score_what_they_were_asked_for(tasks, code):
    options = {"task_manager": tasks.manager, "remasking": "random", "temperature": 0.7}
    options |= {"metric": "exact_match", "steps": 6, "max_new_tokens": 8}
    objective = lm_eval_objective(*code, "misses", **options)
    asked = [("linear", 1), ("sine", 2), ("sine", 8), ("beta(a=0.9, b=0.3)", 4)]
    alone = [objective(schedule, steps=steps) for schedule, steps in asked]
    assert [scores.extras["nfe"] for scores in alone] == [1, 2, 8, 4]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda ask: objective(ask[0], steps=ask[1]), asked * 2))
    assert together == alone * 2
    assert objective("linear").extras["nfe"] == 6


def test_commit_rules_are_tuned_by_the_passes_of_each_document(tasks, code):
    options = {"task_manager": tasks.manager, "metric": "exact_match", "max_new_tokens": 12}
    objective = lm_eval_objective(*code, "misses", batch_size=3, **options)
    rule = {"steps": 12, "commit": "threshold(0.6)"}
    apart = [objective("linear", instances=[i], **rule).nfe for i in range(3)]
    spent = [passes for (passes,) in apart]
    assert len({*spent}) > 1
    assert max(spent) < 12
    assert objective("linear", **rule).nfe == spent
    assert objective("linear", instances=[2, 0], **rule).nfe == [spent[2], spent[0]]
    both = lm_eval_objective(*code, "both", **options)
    assert both("linear", instances=[4, 1], **rule).nfe == [spent[1], spent[1]]
    [mean] = lm_eval_objective(*code, "misses", task_manager=tasks.manager)("linear", steps=4).nfe
    assert mean == 4
    found = mdm.tune(
        objective, n_trials=3, steps=6, space="schedule+commit", max_passes=4, held_out=0
    )
    assert found.choice.passes <= 4
    assert any(0 < point.passes < 6 for point in found.front())


def test_objectives_that_make_no_sense(tasks, code, monkeypatch):
    make = functools.partial(lm_eval_objective, *code, task_manager=tasks.manager)
    for name, options, words in (
        ("likes", {}, "no schedule changes"),
        ("writes", {"metric": "exact_mach"}, "known: exact_match,none"),
        ("both", {"metric": "ter"}, "known: exact_match,none"),
        ("writes", {"limit": 0}, "limit must be an integer >= 1"),
        ("writes", {"stepz": 1}, "Did you mean 'steps'"),
        ("wrties", {}, "did you mean writes"),
    ):
        with pytest.raises(MDMError, match=words):
            make(name, **options)
    with pytest.raises(InvalidTypeError, match="'stepz'"):
        make("writes")("linear", stepz=1)
    with pytest.raises(UnknownNameError, match="'linear'"):
        make("writes")("lineer")
    task = tasks.manager.load(["writes"])["tasks"]["writes"]
    monkeypatch.setattr(type(task), "UNSAFE_CODE", True, raising=False)
    with pytest.raises(InvalidValueError, match="allow_code_execution=True"):
        make("writes")
    assert make("writes", allow_code_execution=True, max_new_tokens=1)("linear").values[0] in (0, 1)


SHARE = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM, lm_eval_objective

def share(folder, path):
    manager = TaskManager(include_path=folder, include_defaults=False)
    lm = MaskedDiffusionLM(path, steps=2, temperature=1.0, mc_num=3, device="cpu")
    results = simple_evaluate(lm, tasks=["misses", "rolls"], task_manager=manager, bootstrap_iters=0)
    alone = lm_eval_objective(lm.model, lm.tokenizer, "writes", task_manager=manager)("linear").values
    # of the last request of a short share lm-eval asks for more, to keep step, and uses the first
    answers = results and {
        name: [[each["doc_id"], each["resps"][0][0]] for each in sorted(samples, key=lambda each: each["doc_id"])]
        for name, samples in results["samples"].items()
    }
    return [lm.rank, len(lm.passes), alone, results and results["results"], answers]

if __name__ == "__main__":
    print(json.dumps(share(*sys.argv[1:])))
"""


def within_rounding(value):
    """`value` with bounds around its floats, however deep: batches of other sizes round otherwise."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-6, nan_ok=True)
    if isinstance(value, list):
        return [within_rounding(each) for each in value]
    if isinstance(value, dict):
        return {name: within_rounding(each) for name, each in value.items()}
    return value


@pytest.mark.slow
def test_processes_share_the_requests_and_the_first_has_the_results(tasks, tmp_path):
    (tmp_path / "share.py").write_text(SHARE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        joined = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
        }
    joined |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(tmp_path / "share.py"), str(tasks.folder), CODE]
    running = [
        subprocess.Popen(
            words,
            env={**os.environ, **joined, "RANK": rank, "LOCAL_RANK": rank},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    answers = []
    for process in running:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        answers.append(json.loads(out.splitlines()[-1]))
    alone = json.loads(
        json.dumps(runpy.run_path(str(tmp_path / "share.py"))["share"](str(tasks.folder), CODE))
    )
    assert alone == [0, 3, [1.0, 0.0, 0.0], *within_rounding(answers[0][3:])]
    assert answers[0][:3] == [0, 2, alone[2]]
    assert answers[1] == [1, 2, alone[2], None, None]
