"""MDMSchedule in SGLang's two loops: a stand-in of SGLang, and a small block-causal model."""

import importlib
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import MASK, LLaDA2

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, MDMError, MissingExtraError
from mdm_schedules.integrations import sglang as bridge
from mdm_schedules.models import get_adapter

STANDINS = Path(__file__).parents[2] / "support/standins"
BLOCK = 4


@pytest.fixture
def engine(monkeypatch):
    """SGLang's package, in which the plug-in was run before its algorithms were loaded."""
    monkeypatch.syspath_prepend(str(STANDINS))
    before = list(sys.meta_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
        monkeypatch.delitem(sys.modules, name)
    bridge.register()
    assert "sglang.srt.dllm.algorithm" not in sys.modules
    found = importlib.import_module("sglang.srt.dllm.algorithm")
    assert sys.meta_path == before
    assert found.__spec__.loader.get_code(found.__name__)
    yield found
    for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
        del sys.modules[name]


def algorithm(engine, settings, fdfo=False, block=BLOCK, mask=MASK):
    from sglang.srt.dllm.config import DllmConfig

    return engine.get_algorithm(DllmConfig("MDMSchedule", settings, block, mask, 8, fdfo))


class Server:
    """As much of SGLang as runs one model: requests, their blocks, and passes counted."""

    def __init__(self, model, algorithm, prompts, blocks, seeds=None, ids=None):
        self.adapter, self.algorithm = get_adapter(model), algorithm
        self.fixed = [list(prompt[: len(prompt) // BLOCK * BLOCK]) for prompt in prompts]
        self.rest = [list(prompt[len(prompt) // BLOCK * BLOCK :]) for prompt in prompts]
        self.blocks, self.seeds, self.passes = blocks, seeds, 0
        self.ids = ids or [f"request {i}" for i in range(len(prompts))]

    def batch(self, rows, blocks):
        self.rows = rows
        starts = [len(self.fixed[row]) for row in rows]
        seeds = None if self.seeds is None else torch.tensor([self.seeds[row] for row in rows])
        return SimpleNamespace(
            input_ids=torch.tensor(blocks).flatten(),
            batch_size=len(rows),
            rids=[self.ids[row] for row in rows],
            positions=torch.tensor([start + i for start in starts for i in range(BLOCK)]),
            sampling_info=SimpleNamespace(sampling_seed=seeds),
            dllm_prompt_mask=None,
        )

    def forward(self, batch, pp_proxy_tensors=None):
        self.passes += 1
        blocks = batch.input_ids.view(-1, BLOCK).tolist()
        logits = [
            self.adapter.forward(torch.tensor([self.fixed[row] + block]), None)[0, -BLOCK:]
            for row, block in zip(self.rows, blocks, strict=True)
        ]
        output = SimpleNamespace(full_logits=torch.cat(logits))
        return SimpleNamespace(logits_output=output, can_run_graph=False)

    def first(self, row):
        rest, self.rest[row] = self.rest[row], []
        return rest + [MASK] * (BLOCK - len(rest))

    def run(self):
        rows = list(range(len(self.fixed)))
        for _ in range(self.blocks):
            batch = self.batch(rows, [self.first(row) for row in rows])
            self.algorithm.run(self, batch)
            for row, block in zip(rows, batch.input_ids.view(-1, BLOCK).tolist(), strict=True):
                self.fixed[row] += block
        return self.fixed

    def run_fdfo(self):
        """Blocks leave when they are done, and requests begin one pass after the other."""
        left = dict.fromkeys(range(len(self.fixed)), self.blocks)
        open_blocks, states, round_number = {}, {}, 0
        while left:
            round_number += 1
            rows = [row for row in left if row < round_number]
            for row in rows:
                if row not in open_blocks:
                    open_blocks[row] = self.first(row)
            batch = self.batch(rows, [open_blocks[row] for row in rows])
            given = [states.get(row) for row in rows]
            _, blocks, lengths, kept, _ = self.algorithm.run(self, batch, given)
            for row, block, length, state in zip(rows, blocks, lengths, kept, strict=True):
                open_blocks[row], states[row] = block, state
                if length:
                    self.fixed[row] += open_blocks.pop(row)
                    left[row] -= 1
                    if not left[row]:
                        del left[row]
        return self.fixed


def prompts(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, MASK, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("settings", [
    {"schedule": "beta(a=0.9, b=0.3)", "steps": 2},
    {"schedule": "sine", "steps": 3, "remasking": "entropy"},
    {"steps": 4, "threshold": 0.2},
])  # fmt: skip
def test_the_tokens_of_generate_with_the_same_plan_and_one_pass_more_for_each_block(
    engine, settings
):
    model, given = LLaDA2().eval(), prompts(8, 8, 8)
    server = Server(model, algorithm(engine, settings), given, blocks=2)
    options = {key: value for key, value in settings.items() if key != "steps"}
    ours = mdm.generate(
        model, torch.tensor(given), max_new_tokens=8, steps=2 * settings["steps"], **options
    )
    assert server.run() == ours.tolist()
    if "threshold" not in settings:  # with it the rows of a batch wait for the slowest
        assert server.passes == ours.nfe + 2


def test_the_tokens_of_sglangs_own_rule_with_its_own_schedule(engine):
    """LowConfidence: all above the threshold, else the surest one."""

    def own_rule(logits, block):
        probability, token = logits.softmax(-1).max(-1)
        open_ = block == MASK
        score = torch.where(open_, probability, -torch.inf)
        chosen = score > 0.3
        if not bool(chosen.any()):
            chosen[score.argmax()] = True
        return torch.where(chosen & open_, token, block)

    model, given = LLaDA2().eval(), prompts(9)
    server = Server(model, algorithm(engine, {"threshold": 0.3}), given, blocks=3)
    expected, passes = given[0][:8], 0
    rest = given[0][8:]
    for _ in range(3):
        block = torch.tensor(rest + [MASK] * (BLOCK - len(rest)))
        rest = []
        while bool((block == MASK).any()):
            row = torch.cat([torch.tensor(expected), block])[None]
            block = own_rule(server.adapter.forward(row, None)[0, -BLOCK:], block)
            passes += 1
        passes += 1
        expected = expected + block.tolist()
    assert server.run() == [expected]
    assert server.passes == passes < 3 * (BLOCK + 1)


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_blocks_that_leave_first_hold_the_same_tokens(engine, temperature):
    model, given = LLaDA2().eval(), prompts(8, 5, 10)
    settings = {"schedule": "beta(a=0.9, b=0.3)", "steps": 3, "temperature": temperature}
    alone = [
        Server(model, algorithm(engine, settings), [prompt], 2, ids=[f"request {i}"]).run()[0]
        for i, prompt in enumerate(given)
    ]
    for fdfo in (False, True):
        server = Server(model, algorithm(engine, settings, fdfo), given, 2)
        assert (server.run_fdfo() if fdfo else server.run()) == alone
        assert all(MASK not in row for row in alone)


def test_a_request_draws_by_its_own_seed_then_the_files_then_its_id(engine):
    model, (given,) = LLaDA2().eval(), prompts(8)
    hot = {"steps": 2, "temperature": 2.0}

    def write(settings=hot, **options):
        return Server(model, algorithm(engine, settings), [given], 3, **options).run()

    assert write(seeds=[5], ids=["a"]) == write({**hot, "seed": 7}, seeds=[5], ids=["b"])
    assert write(seeds=[5]) != write(seeds=[6])
    assert write({**hot, "seed": 5}, ids=["a"]) == write({**hot, "seed": 5}, ids=["b"])
    assert write(ids=["a"]) == write(ids=["a"]) != write(ids=["b"])


def test_the_block_is_changed_in_place_and_masks_of_the_prompt_stay(engine):
    rule = algorithm(engine, {"steps": 2})
    batch = SimpleNamespace(
        input_ids=torch.tensor([7, MASK, MASK, MASK]),
        batch_size=1,
        dllm_prompt_mask=torch.tensor([[True, True, False, False]]),
    )
    ids, logits = batch.input_ids, torch.randn(4, 60)
    states, before = rule.init_step_state(batch), logits.clone()
    assert states[0].plan == [1, 1]
    assert rule.step(batch, logits, states) == [False]
    # later versions hand over an object
    assert rule.step(batch, SimpleNamespace(full_logits=logits), states) == [False]
    assert batch.input_ids is ids
    assert ids[:2].tolist() == [7, MASK]
    assert MASK not in ids[2:].tolist()
    assert rule.step(batch, logits, states) == [True]
    assert torch.equal(logits, before)
    with pytest.raises(InvalidTypeError, match=r"logits must be \[4, vocabulary\], got \(2, 60\)"):
        rule.step(SimpleNamespace(**{**vars(batch), "dllm_prompt_mask": None}), logits[:2], states)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 5}, "steps must be at most the 4 tokens of a block, got 5"),
        ({"step": 2}, "no setting 'step'. Did you mean 'steps'"),
        ({"schedule": "betta"}, "Did you mean 'beta'"),
        ({"remasking": "random"}, "knows its order without the model"),
        ({"threshold": 0.9, "remasking": "entropy"}, "needs remasking='low_confidence'"),
        ({"temperature": -1}, "temperature must be"),
    ],
)
def test_settings_that_cannot_be_honoured_stop_the_server(engine, settings, message):
    with pytest.raises(MDMError, match=message):
        algorithm(engine, settings)


def test_a_model_without_masks_is_refused(engine):
    with pytest.raises(InvalidValueError, match="Gemma4Renoise"):
        algorithm(engine, {}, mask=-1)


def test_sglang_finds_the_plugin_and_a_missing_sglang_is_named(monkeypatch):
    (point,) = (
        one for one in metadata.entry_points(group="sglang.srt.plugins") if "mdm" in one.value
    )
    assert point.load() is bridge.register
    if importlib.util.find_spec("sglang") is None:
        with pytest.raises(MissingExtraError, match=r"mdm-schedules\[sglang\].*0\.5\.23"):
            bridge.register()


def test_an_sglang_of_another_interface_keeps_its_own_algorithms(monkeypatch, tmp_path, caplog):
    package = tmp_path / "sglang/srt/dllm/algorithm"
    package.mkdir(parents=True)
    for folder in (package, *package.parents[:3]):
        (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    bridge.register()
    importlib.import_module("sglang.srt.dllm.algorithm")
    assert "another interface" in caplog.text
    assert "0.5.23" in caplog.text
    for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
        monkeypatch.delitem(sys.modules, name)
