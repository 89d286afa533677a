"""Cached passes give the tokens of plain ones: exact caches always, others where they refresh."""

import threading

import pytest
import torch
from caching import APPROXIMATE, HOOKED, block_of, model_of, prompts
from released import BLOCKS

import mdm_schedules as mdm
from mdm_schedules.checks import say_once
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.models import get_adapter
from mdm_schedules.models.cache import KVStore, attention

pytestmark = pytest.mark.slow

BIDIRECTIONAL = ["llada", "dream", *["bert"] * HOOKED]

# options that change what is drawn, where, and for how long
SETTINGS = {
    "plain": {},
    "guidance": {"cfg_scale": 0.7},
    "threshold": {"threshold": 0.05},
    "entropy bound": {"remasking": "entropy", "entropy_bound": 0.8},
    "masked again": {"remask_fraction": 0.4, "remasking": "random", "temperature": 0.8},
    "ends": {"eos_token_id": [7, 9, 30, 31, 32, 33, 34, 35], "temperature": 1.5},
    "guidance and ends": {
        "cfg_scale": 0.5,
        "eos_token_id": [7, 9, 30, 31, 32, 33, 34, 35],
        "temperature": 1.5,
    },
    "several": {"num_return_sequences": 3, "temperature": 1.0},
    "several with guidance": {"num_return_sequences": 2, "temperature": 1.0, "cfg_scale": 0.5},
    "from the left": {"remasking": "left_to_right"},
    "dilated": {"remasking": "dilated"},
    "edited": {"commit": "threshold(0.05)", "edit_threshold": 0.02, "max_post_steps": 3},
    "revoked": {"revoke_threshold": 0.02, "temperature": 1.0},
    "klass": {"commit": "klass(confidence=0.02, kl=5.0)"},
}


def written(family, ids=None, own=None, **options):
    model = model_of(family)
    if ids is None:
        ids, own = prompts(model)
    block = block_of(model)
    given = {"max_new_tokens": 3 * block, "steps": 9, "block_length": block, "seed": 3, **options}
    return mdm.generate(model, ids, own, **given)


def same(one, two):
    return torch.equal(one.sequences, two.sequences) and one.nfe == two.nfe


# --- tokens


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", BLOCKS)
def test_an_exact_cache_gives_the_plain_tokens(family, setting):
    options = SETTINGS[setting]
    plain, cached = written(family, cache="none", **options), written(family, **options)
    assert same(plain, cached)
    assert plain.cache is None
    assert cached.cache.mode == "exact"
    assert cached.cache.computed < cached.cache.without


@pytest.mark.parametrize(("mode", "attention"), [("prefix", "eager"), ("dual", "sdpa")])
@pytest.mark.parametrize("family", APPROXIMATE)
def test_refreshed_in_every_pass_is_plain(family, mode, attention):
    model = model_of(family, attention)
    ids, own = prompts(model)
    if family == "distilbert":  # takes no padding where it takes no positions
        ids, own = ids[1:], own[1:]
    options = {"max_new_tokens": 12, "steps": 6, "block_length": 4}
    plain = mdm.generate(model, ids, own, cache="none", **options)
    assert same(plain, mdm.generate(model, ids, own, cache=mode, cache_refresh=1, **options))
    assert model.config._attn_implementation == attention
    rare = mdm.generate(model, ids, own, cache=mode, **options)
    assert rare.nfe == plain.nfe
    assert rare.cache.computed < rare.cache.without


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", BIDIRECTIONAL)
def test_refreshed_in_every_pass_is_plain_whatever_is_drawn(family, setting):
    options = SETTINGS[setting]
    again = written(family, cache="dual", cache_refresh=1, **options)
    assert same(written(family, cache="none", **options), again)


@pytest.mark.parametrize(
    ("cache", "setting"),
    [
        ({"cache": "prefix"}, "guidance"),
        ({"cache": "dual"}, "ends"),
        ({"cache": "dual", "cache_refresh": 2}, "threshold"),
        ({"cache": "dual", "cache_refresh_blocks": 2}, "threshold"),
        ({"cache": "dual", "cache_refresh_blocks": 2}, "masked again"),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", [*BIDIRECTIONAL, "fast_dllm"])
def test_a_row_is_the_same_alone_in_a_ragged_batch_and_in_another_order(family, cache, setting):
    options = {**SETTINGS[setting], **(cache if family not in BLOCKS else {})}
    ids, own = prompts(model_of(family))
    together = written(family, ids, own, **options)
    seeds = together.seeds
    turned = written(family, ids.flip(0), own.flip(0), **{**options, "seed": seeds[::-1]})
    assert torch.equal(turned.sequences.flip(0), together.sequences)
    for row, seed in enumerate(seeds):
        padding = int((own[row] == 0).sum())
        alone = written(family, ids[row : row + 1, padding:], **{**options, "seed": [seed]})
        assert torch.equal(alone.sequences[0], together.sequences[row, padding:])


@pytest.mark.parametrize("family", ["llada2", "fast_dllm", "llada"])
def test_prompts_with_masks_are_filled_as_without_a_cache(family):
    model = model_of(family)
    ids, own = prompts(model, length=17)
    ids[:, 11:13] = model.config.mask_token_id
    cache = {} if family in BLOCKS else {"cache": "dual", "cache_refresh": 1}
    for new in (0, 2 * block_of(model) - 1):
        options = {"max_new_tokens": new, "steps": 6, **cache}
        assert same(
            written(family, ids, own, **{**options, "cache": "none", "cache_refresh": 0}),
            written(family, ids, own, **options),
        )


def test_only_some_prompts_with_masks_are_refused_where_it_would_matter():
    ids, own = prompts(model_of("llada"))
    ids[1, 6] = model_of("llada").config.mask_token_id
    with pytest.raises(InvalidValueError, match="some prompts hold mask tokens and some do not"):
        written("llada", ids, own, cache="dual")
    ids, own = prompts(model_of("sdar"))
    ids[1, 6] = model_of("sdar").config.mask_token_id
    assert same(written("sdar", ids, own), written("sdar", ids, own, cache="none"))


def test_copies_of_a_prompt_begin_as_one():
    model = model_of("llada2")
    shapes = []
    hook = model.model.embed_tokens.register_forward_hook(lambda *x: shapes.append(x[1][0].shape))
    try:
        out = written("llada2", num_return_sequences=3, temperature=1.0)
    finally:
        hook.remove()
    assert shapes[0] == (3, 24)  # prompt and first block, once for each prompt
    assert set(shapes[1:]) == {(9, 8), (9, 16)}
    assert out.cache.nbytes == mdm.cache_size(model, 40, batch_size=9)


# --- one model, many users


@pytest.mark.parametrize("family", ["llada2", "dream", *["bert"] * HOOKED])
def test_four_threads_on_one_model(family):
    options = {} if family in BLOCKS else {"cache": "dual"}
    expected = [written(family, seed=seed, temperature=1.0, **options) for seed in range(4)]
    plain = written(family, seed=9, temperature=1.0, cache="none")
    found, start = {}, threading.Barrier(5)

    def run(seed, **more):
        start.wait()
        found[seed] = written(family, seed=seed, temperature=1.0, **(more or options))

    jobs = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    jobs.append(threading.Thread(target=run, args=(9,), kwargs={"cache": "none"}))
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert all(same(found[seed], expected[seed]) for seed in range(4))
    assert same(found[9], plain)
    assert model_of(family).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["llada2", *["bert"] * HOOKED])
def test_an_error_frees_the_store_and_restores_the_attention(family, monkeypatch):
    stores = []
    monkeypatch.setattr(KVStore, "begin", spy(KVStore.begin, stores))

    def stop(info):
        assert model_of(family).config._attn_implementation.startswith(
            "sdpa" if family in BLOCKS else attention.PREFIX
        )
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        written(family, cache="exact" if family in BLOCKS else "dual", callback=stop)
    assert model_of(family).config._attn_implementation == "sdpa"
    assert not attention._users


def spy(method, seen):
    def wrapped(self, *args):
        seen.append(self)
        return method(self, *args)

    return wrapped


@pytest.mark.parametrize("family", ["llada2", "llada"])
def test_unusable_logits_are_an_error_as_without_a_cache(family):
    model = model_of(family)
    ids, own = prompts(model)
    weight = model.model.embed_tokens.weight
    kept = weight[20].clone()
    ids[1, -1] = 20
    try:
        with torch.no_grad():
            weight[20] = torch.nan
        with pytest.raises(InvalidValueError, match="NaN"):
            written(family, ids, own, cache="exact" if family in BLOCKS else "dual")
    finally:
        with torch.no_grad():
            weight[20] = kept


# --- what is refused


@pytest.mark.parametrize(
    ("family", "options", "text"),
    [
        ("llada", {"cache": "exact"}, "cache='prefix' or 'dual'"),
        ("sdar", {"cache": "dual"}, "attends by blocks of 4.* it takes cache='exact' or 'none'"),
        ("llada", {"cache": "duel"}, "Did you mean 'dual'"),
        ("llada", {"cache": "dual", "cache_refresh": -1}, "cache_refresh must be an integer >= 0"),
        ("llada", {"cache": "dual", "cache_refresh_blocks": 0}, "cache_refresh_blocks must be"),
        ("llada", {"cache_refresh": 2}, "give cache='dual' or 'prefix'"),
        (
            "llada",
            {"cache": "dual", "cache_refresh": 2, "cache_refresh_blocks": 2},
            "give one of them",
        ),
    ],
)
def test_contradictions_are_refused(family, options, text):
    with pytest.raises(InvalidValueError, match=text):
        written(family, **options)


def test_models_without_a_cache_say_why():
    with pytest.raises(InvalidTypeError, match="cache must be one of 'auto'"):
        written("llada", cache=True)

    def function(tokens):
        return torch.randn(*tokens.shape, 12, generator=torch.Generator().manual_seed(0))

    ids = torch.ones(1, 4, dtype=torch.long)
    given = {"max_new_tokens": 4, "mask_token_id": 11, "block_length": 2}
    with pytest.raises(InvalidValueError, match="is called as a function of whole sequences"):
        mdm.generate(function, ids, cache="dual", **given)
    assert mdm.generate(function, ids, **given).cache is None


def test_released_code_and_time_inputs_have_no_cache():
    from families import FAMILIES

    for name, text in {"llada": "trust_remote_code", "mdlm": "time input"}.items():
        with pytest.raises(InvalidValueError, match=text):
            mdm.generate(FAMILIES[name](), torch.ones(1, 4).long(), max_new_tokens=4, cache="dual")


@pytest.mark.skipif(not HOOKED, reason="encoders cannot be hooked")
def test_encoders_without_a_cache_say_why(monkeypatch):
    model = model_of("bert")
    ids, own = prompts(model)
    options = {"max_new_tokens": 4, "block_length": 2, "cache": "dual"}
    with monkeypatch.context() as patch:
        patch.setattr(model, "_compiled_call_impl", model.forward)  # as model.compile() does
        with pytest.raises(InvalidValueError, match="is compiled, which hides its attention"):
            mdm.generate(model, ids, own, **options)
    model.config._attn_implementation_internal = "flash_attention_2"
    try:
        assert "set_attn_implementation('sdpa')" in get_adapter(model).cache_support().reason
    finally:
        model.config._attn_implementation_internal = "sdpa"
    esm = model_of("esm")
    esm.esm.embeddings.token_dropout = True
    try:
        with pytest.raises(InvalidValueError, match="token_dropout"):
            mdm.generate(esm, *prompts(esm), **options)
    finally:
        esm.esm.embeddings.token_dropout = False


@pytest.mark.skipif(not HOOKED, reason="encoders cannot be hooked")
def test_a_model_that_answers_otherwise_for_a_part_is_found_out(monkeypatch):
    from transformers.models.bert.modeling_bert import BertEmbeddings

    model = model_of("roberta")
    plain = type(model.roberta.embeddings).forward

    def counting(self, *args, **kwargs):
        hidden = plain(self, *args, **kwargs)
        return hidden * hidden.shape[1]

    assert BertEmbeddings is not type(model.roberta.embeddings)
    monkeypatch.setattr(type(model.roberta.embeddings), "forward", counting)
    assert not get_adapter(model)._try_cache()


def test_one_block_without_a_prompt_runs_plain_and_says_so(caplog):
    model = model_of("llada")
    ids = torch.full((2, 12), model.config.mask_token_id)
    say_once.cache_clear()
    out = mdm.generate(model, ids, steps=4, cache="dual")
    assert out.cache is None
    assert "nothing to keep" in caplog.text


def test_a_store_that_does_not_fit_is_refused(monkeypatch, caplog):
    monkeypatch.setattr("mdm_schedules.sampling.caching.room_for", lambda device: 1000)
    with pytest.raises(InvalidValueError, match="GB are free; make batches smaller"):
        written("sdar", cache="exact")
    assert written("sdar").cache is None
    assert "no cache: cache='exact' needs" in caplog.text


def test_the_size_is_known_before():
    for family in ("llada", "llada2"):
        model = model_of(family)
        out = written(family, cache="auto" if family in BLOCKS else "dual")
        assert out.cache.nbytes == mdm.cache_size(model, out.shape[1], batch_size=3)
        half = mdm.cache_size(model.config, out.shape[1], batch_size=3, dtype=torch.bfloat16)
        assert 2 * half == out.cache.nbytes
    with pytest.raises(InvalidTypeError, match="does not say how large"):
        mdm.cache_size(torch.nn.Linear(2, 2), 10)


@pytest.mark.parametrize("family", ["sdar", "llada"])
def test_flash_attention_has_no_cache(family, monkeypatch):
    model = model_of(family)
    monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2")
    support = get_adapter(model).cache_support()
    assert support.kind is None
    assert "set_attn_implementation('sdpa')" in support.reason


@pytest.mark.slow
def test_a_compiled_model_keeps_its_few_graphs():
    model = model_of("sdar")
    ids = prompts(model)[0]
    options = {"max_new_tokens": 16, "steps": 12, "seed": 3}
    expected = mdm.generate(model, ids, **options)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    fast = torch.compile(model, backend=backend)
    assert same(mdm.generate(fast, ids, **options), expected)
    made = len(graphs)
    assert made <= 8  # prompt, one block, two blocks, and widths that vary; not one for each window
    assert same(mdm.generate(fast, ids, **options), expected)
    assert len(graphs) == made
