"""Messages in the command line's words, progress as lines, curves, chat prompts, the verdict."""

import io
import json
import re

import pytest

import mdm_schedules as mdm
from mdm_schedules.cli import chat, main, progress
from mdm_schedules.cli.listing import curve
from mdm_schedules.cli.parser import build_parser
from mdm_schedules.cli.verdict import sentence
from mdm_schedules.cli.words import in_flags
from mdm_schedules.errors import InvalidValueError


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("top_k must be an integer", "--top-k must be an integer"),
        ("steps must be an integer >= 1", "--steps must be an integer >= 1"),
        ("overwrite=True starts anew", "--overwrite starts anew"),
        ("which infill=False refuses", "which --no-infill refuses"),
        ("on_error='skip' goes on", "--on-error skip goes on"),
        ("such as plan=[1, 2, 5]", "such as --plan 1 2 5"),
        (
            "for example generate(model, ids, max_new_tokens=128, steps=16)",
            "for example --max-new-tokens 128 --steps 16",
        ),
        ("such as f(x, steps=16) does", "such as f(x, steps=16) does"),
        ("write 'preset:llada-8b/mbpp(steps=16)'", "write 'preset:llada-8b/mbpp(steps=16)'"),
        ("a prompt must be text", "a prompt must be text"),
        ("cannot read /x/batch_size/y", "cannot read /x/batch_size/y"),
        ("schedule 'beta': a must be", "schedule 'beta': a must be"),
    ],
)
def test_keywords_become_flags_and_text_stays(told, shown):
    assert in_flags(told, build_parser(["sample"])[1]) == shown


def test_an_example_is_a_whole_command_or_stays_a_call():
    told = "for example schedule.plan(num_tokens=256, steps=16)"
    shown = build_parser(["show"])[1]
    assert in_flags(told, shown) == "for example --num-tokens 256 --steps 16"
    assert in_flags(told, build_parser(["sample"])[1]) == told


def test_bars_become_a_line_now_and_then(monkeypatch):
    from tqdm import tqdm

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    lines = progress.Lines(stream)
    for _ in tqdm(range(60), desc="checking", file=lines, mininterval=0, miniters=1):
        now[0] += 1
    print("a message", file=lines)
    told = stream.getvalue().splitlines()
    assert told[-1] == "a message"
    assert 2 <= len(told) <= 5
    assert all(line.startswith("checking: ") and "/60 [" in line for line in told[:-1])
    assert "\r" not in stream.getvalue()


def test_curves_are_blocks_or_ascii():
    assert curve([0, 0.5, 1], "utf-8") == "▁▅█"
    assert curve([0, 0.5, 1], "ascii").isascii()
    assert curve([0, 0.5, 1], None).isascii()


def test_list_has_all_that_has_a_name(capsys):
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    for kind, names in (
        ("schedules", mdm.list_schedules()),
        ("policies", mdm.list_policies()),
        ("commits", mdm.list_commits()),
        ("models", mdm.list_models()),
    ):
        assert [row["name"] for row in rows if row["kind"] == kind] == [one.name for one in names]
    assert all(row["about"] for row in rows)
    beta = next(row for row in rows if row["name"] == "beta")
    assert beta["curve_of"] == "beta(a=0.9, b=0.3)"
    assert beta["curve"][-1] == 1
    assert "sin^2(pi/2 BetaCDF" in beta["about"]
    assert main(["list", "schedules"]) == 0
    out = capsys.readouterr().out
    assert "alpha = t:" in out
    assert "Policies" not in out
    assert max(map(len, out.splitlines())) <= 100


class Template:
    """A tokenizer's chat template."""

    chat_template = "one"

    def apply_chat_template(self, turns, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<assistant>"


def test_chat_puts_each_prompt_into_the_template_and_leaves_broken_lines(tmp_path):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows = [json.dumps({"prompt": "a", "id": 3}), "", "{broken", json.dumps({"messages": messages})]
    (tmp_path / "p.jsonl").write_text("\n".join([*rows, "[1, 2]"]))
    with chat.chat_prompts(tmp_path / "p.jsonl", Template()) as path:
        told = path.read_text().splitlines()
    assert path.name == "p.jsonl"
    assert json.loads(told[0]) == {"prompt": "<user>a<assistant>", "id": 3}
    assert told[1:3] == ["", "{broken"]
    assert json.loads(told[3]) == {"prompt": "<system>s<user>u<assistant>"}
    assert json.loads(told[4]) == {"prompt": [1, 2]}
    (tmp_path / "p.txt").write_bytes(b"one\n\xff\n")
    with chat.chat_prompts(tmp_path / "p.txt", Template()) as path:
        told = path.read_bytes().splitlines()
    assert json.loads(told[0]) == {"prompt": "<user>one<assistant>"}
    assert told[1] == b"\xff"
    with pytest.raises(InvalidValueError, match="leave --chat out"):
        chat.as_turn(object(), "x")


def test_the_verdict_is_a_sentence_with_the_line_that_uses_it():
    pytest.importorskip("optuna")

    def score(schedule, *, steps, instances):
        return [float(schedule == mdm.Sine()) + 0.01 * (i % 3) for i in instances]

    score.num_instances, score.sampler = 40, {"remasking": "random", "temperature": 0.5}
    found = mdm.tune(score, steps=[4, 8], n_trials=8, method="random")
    told = sentence(found, 8, None)
    assert told.startswith(
        "At 8 steps in random order use sine(), not linear() (score): better by "
    )
    # the finding is the verdict's, word for word
    finding = found.verdict(8).partition("Better by ")[2]
    assert re.match(r"\+1 \(\+1 to \+1, 95 %\) on \d+ ", finding)
    assert f": better by {finding}. In Python: " in told
    line = (
        "model.generate(input_ids, schedule='sine()', steps=8, remasking='random', temperature=0.5)"
    )
    assert told.endswith(f"In Python: {line}")
