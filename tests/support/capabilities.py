"""What every model must be able to do, as data: name -> function(model, tokenizer or None).

A function raises if the model does not do it, and may return how it does it. `model` has a mask token in its config; prompts are
token ids of at least 5. Where a capability needs text it makes no claim without a tokenizer.
"""

import copy
from types import SimpleNamespace

import pytest
import torch

import mdm_schedules as mdm
from mdm_schedules.models import get_adapter
from mdm_schedules.sampling.batching import in_calls, joined
from mdm_schedules.sampling.prompt import left_pad

NEW = 8
LENGTHS = (3, 7, 4)


def mask_of(model):
    return get_adapter(model).mask_token_id


def prompts(model, rows=2, length=5):
    """Random prompts without the mask, the same for each model of one vocabulary."""
    size = min(mask_of(model), get_adapter(model).vocab_size - 1)
    return torch.randint(5, size, (rows, length), generator=torch.Generator().manual_seed(1))


def write(model, ids=None, **options):
    """Run `generate` with a few passes; check that all masks are written and the prompt is kept."""
    ids = prompts(model) if ids is None else ids
    out = mdm.generate(model, ids, **{"max_new_tokens": NEW, "steps": 4, **options})
    assert not (out.sequences == mask_of(model)).any()
    if not (ids == mask_of(model)).any() and len(out.sequences) == len(ids):
        assert torch.equal(out.sequences[:, : ids.shape[1]].cpu(), ids)
    return out


def greedy(model, tokenizer):
    out = write(model)
    assert out.nfe == 4
    again = write(model, prompts(model)[1:])
    assert torch.equal(again.sequences[0], out.sequences[1])


def schedules_and_orders(model, tokenizer):
    for schedule in ("sine", "beta(a=0.8, b=0.3)"):
        assert write(model, schedule=schedule).nfe == 4
    for remasking in ("margin", "entropy", "random", "left_to_right"):
        write(model, remasking=remasking, seed=1)


def guidance(model, tokenizer):
    plain, guided = write(model).sequences, write(model, cfg_scale=2.0).sequences
    assert plain.shape == guided.shape


def temperature_and_seeds(model, tokenizer):
    options = {"temperature": 1.0, "top_k": 9, "top_p": 0.9}
    one, two, other = (write(model, seed=seed, **options).sequences for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    alone = write(model, prompts(model)[1:], seed=3, **options).sequences
    assert torch.equal(alone[0], one[1])


def remasking_of_revealed_tokens(model, tokenizer):
    assert int(write(model, remask_fraction=0.5).drawn.sum()) > 2 * NEW


def commit_by_threshold(model, tokenizer):
    assert write(model, steps=None, threshold=1e-6).nfe <= 1 + NEW // 2


def several_answers(model, tokenizer):
    out = write(model, num_return_sequences=3, temperature=1.0, seed=1)
    assert len(out.sequences) == 6
    assert len(out.sequences.unique(dim=0)) > 2


def ragged_prompts(model, tokenizer):
    rows = [prompts(model, 1, length)[0].tolist() for length in LENGTHS]
    ids, own = left_pad(rows)
    options = {"max_new_tokens": NEW, "steps": 4}
    parts = [
        (answers, mdm.generate(model, **call).sequences)
        for answers, call in in_calls(get_adapter(model), ids, own, options)
    ]
    for row, whole in zip(rows, joined(ids, parts), strict=True):
        alone = write(model, torch.tensor([row]))
        assert torch.equal(whole[-len(row) - NEW :], alone.sequences[0])


def infilling(model, tokenizer):
    ids = prompts(model, 2, 8)
    ids[:, 3:6] = mask_of(model)
    out = write(model, ids, max_new_tokens=None, steps=2)
    kept = ids != mask_of(model)
    assert torch.equal(out.sequences.cpu()[kept], ids[kept])


def ends_and_texts(model, tokenizer):
    if tokenizer is None:
        return
    out = write(model, tokenizer=tokenizer, eos_token_id=tokenizer.eos_token_id)
    assert len(out.texts()) == 2


def a_method_of_the_model(model, tokenizer):
    with_method = mdm.AutoModelForMaskedDiffusion.from_model(copy.deepcopy(model), "sine")
    options = {"max_new_tokens": NEW, "steps": 4}
    want = with_method.generate(prompts(model), **options)
    got = with_method.generate(prompts(model), custom_generate=mdm.generate, **options)
    assert torch.equal(got.sequences, want.sequences)


def pipeline(model, tokenizer):
    pytest.importorskip("diffusers")
    pipe = mdm.MaskedDiffusionPipeline(
        model, mdm.MaskedDiffusionScheduler(mask_of(model), "linear"), tokenizer
    )
    pipe.set_progress_bar_config(disable=True)
    ids, own = left_pad([prompts(model, 1, length)[0].tolist() for length in LENGTHS])
    options = {"max_new_tokens": NEW, "num_inference_steps": 4}
    out = pipe(input_ids=ids, attention_mask=own, output_type="seq", **options)
    assert out.sequences.shape == (3, NEW)
    if tokenizer is not None:
        assert len(pipe(tokenizer.batch_decode(prompts(model)), **options).texts) == 2


def distributed(model, tokenizer):
    pytest.importorskip("accelerate")
    rows = [prompts(model, 1, length)[0].tolist() for length in LENGTHS]
    out = mdm.generate_distributed(
        model, rows, batch_size=2, max_new_tokens=NEW, steps=4, seed=0, schedule="linear"
    )
    for row, record in zip(rows, out.records, strict=True):
        assert record["tokens"] == write(model, torch.tensor([row])).sequences[0].tolist()


def lm_eval(model, tokenizer):
    pytest.importorskip("lm_eval")
    from mdm_schedules.integrations.lm_eval import MaskedDiffusionLM

    if tokenizer is None:
        return
    texts = [
        tokenizer.decode(prompts(model, 1, length)[0], skip_special_tokens=True)
        for length in LENGTHS
    ]
    lm = MaskedDiffusionLM(
        model, tokenizer, batch_size=2, max_new_tokens=NEW, steps=3, mc_num=2, max_length=64
    )
    said = [SimpleNamespace(args=(text, {"until": ["\n"]})) for text in texts]
    assert len(lm.generate_until(said, disable_tqdm=True)) == 3
    asked = [SimpleNamespace(args=(texts[0], " " + text)) for text in texts]
    assert all(score < 0 for score, _ in lm.loglikelihood(asked, disable_tqdm=True))


def profile(model, tokenizer):
    sequences = prompts(model, 8, 6)
    found = mdm.InformationProfile.estimate(model, sequences, counts=[0, 3, 5])
    assert found.num_tokens == 6
    assert found.cost(mdm.Linear().plan(6, 3)) >= 0


def tune_on_ragged_prompts(model, tokenizer):
    pytest.importorskip("optuna")
    from mdm_schedules.tuning.objectives import GenerationObjective

    pairs = [(prompts(model, 1, length)[0].tolist(), 0) for length in LENGTHS]
    objective = GenerationObjective(
        model, pairs, lambda output, _: float(output.sum()), max_new_tokens=NEW, steps=3
    )
    result = mdm.tune(objective, n_trials=2, seed=0)
    assert int(result.best_schedule.plan(NEW, 3).sum()) == NEW


def compiled(model, tokenizer):
    torch._dynamo.reset()
    ids = prompts(model)
    quick = torch.compile(model, backend="eager")
    assert torch.equal(write(quick, ids).sequences, write(model, ids).sequences)


def half_precision(model, tokenizer):
    for dtype in (torch.bfloat16, torch.float16):
        write(copy.deepcopy(model).to(dtype), temperature=1.0, seed=0)


def cached(model, tokenizer):
    """Which cache there is. An exact one, or one refreshed in each pass, changes no token."""
    kind = get_adapter(model).cache_support().kind
    if kind is None:
        with pytest.raises(mdm.errors.MDMError, match="cache='none' only"):
            write(model, cache="dual")
        return "none"
    block = get_adapter(model).block_length or 4
    options = {"block_length": block, "max_new_tokens": 2 * block, "steps": 4}
    given = {"exact": {"cache": "exact"}, "approximate": {"cache": "dual", "cache_refresh": 1}}
    out = write(model, **options, **given[kind])
    assert torch.equal(out.sequences, write(model, cache="none", **options).sequences)
    assert out.cache is not None
    return kind


CAPABILITIES = {
    "generate": greedy,
    "cache": cached,
    "schedules and orders": schedules_and_orders,
    "cfg_scale": guidance,
    "temperature, filters, seeds": temperature_and_seeds,
    "remask_fraction": remasking_of_revealed_tokens,
    "threshold": commit_by_threshold,
    "several answers": several_answers,
    "ragged prompts": ragged_prompts,
    "infilling": infilling,
    "ends and texts": ends_and_texts,
    "custom_generate": a_method_of_the_model,
    "pipeline": pipeline,
    "distributed": distributed,
    "lm-eval": lm_eval,
    "profile": profile,
    "tune": tune_on_ragged_prompts,
    "torch.compile": compiled,
    "bfloat16, float16": half_precision,
}
