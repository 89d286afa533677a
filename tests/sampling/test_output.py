"""The output as people use it: as its sequences, as text, in a notebook; and what it says of passes."""

import copy
import itertools
import pickle

import pytest
import torch
from encoders import MASK, PAD, V, build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, UnknownNameError
from mdm_schedules.sampling import DrawOptions, sample

PROMPT = torch.tensor([[7, 8, 9], [9, 8, 7]])
EOS = 5


@pytest.fixture(scope="module")
def bert():
    model = build("bert")
    model.config.mask_token_id = MASK
    return model


@pytest.fixture(scope="module")
def tokenizer():
    words = {f"w{i}": i for i in range(V)} | {"<b>&": V - 1}
    words.pop(f"w{V - 1}")
    inner = Tokenizer(models.WordLevel(words, unk_token="w1"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="w1", mask_token="w4", pad_token="w0", eos_token="w5"
    )


def write(model, prompt=PROMPT, **options):
    given = {"max_new_tokens": 9, "steps": 4, "temperature": 1.0, "seed": 0, **options}
    return mdm.generate(model, prompt, **given)


def test_it_is_used_as_its_sequences(bert, tokenizer):
    out = write(bert)
    rows = out.sequences
    assert torch.equal(out[0], rows[0])
    assert torch.equal(out[:, 3:], rows[:, 3:])
    assert torch.equal(out["sequences"], rows)
    assert out["nfe"] == out.nfe == 4
    assert len(out) == 2
    assert out.shape == rows.shape
    assert out.tolist() == rows.tolist()
    assert all(torch.equal(one, other) for one, other in zip(out, rows, strict=True))
    assert tokenizer.batch_decode(out) == tokenizer.batch_decode(rows)
    assert tokenizer.decode(out[0]) == tokenizer.decode(rows[0])
    assert torch.equal(torch.stack(list(out)), rows)


def test_what_it_has_not_is_said(bert):
    out = write(bert)
    with pytest.raises(UnknownNameError, match="Did you mean 'sequences'"):
        out["sequence"]
    with pytest.raises(AttributeError, match=r"out\.sequences\.cpu"):
        out.cpu()
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        _ = out.scores
    assert torch.equal(copy.deepcopy(out).sequences, out.sequences)
    assert torch.equal(pickle.loads(pickle.dumps(out)).sequences, out.sequences)


def test_its_repr_says_shape_and_passes_and_nothing_more(bert):
    assert repr(write(bert)) == "GenerationOutput(sequences [2, 12], 4 passes)"


def test_texts_are_the_answers_up_to_their_end(bert, tokenizer):
    out = write(bert, num_return_sequences=8)
    expected = []
    for row in out[:, 3:].tolist():
        row = row[: row.index(EOS)] if EOS in row else row
        expected.append(tokenizer.decode(row, skip_special_tokens=True))
    assert out.texts(tokenizer) == expected
    assert any(EOS in row for row in out[:, 3:].tolist())
    assert write(bert, num_return_sequences=8, tokenizer=tokenizer).texts() == expected
    with pytest.raises(InvalidTypeError, match=r"out\.texts\(tokenizer\)"):
        out.texts()


def test_texts_of_an_infilled_prompt_are_whole_and_without_padding(bert, tokenizer):
    ids = torch.tensor([[PAD, PAD, 7, MASK, 8], [7, MASK, MASK, MASK, 8]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    out = mdm.generate(bert, ids, mask, seed=0, suppress_tokens=[PAD, EOS])
    assert out.texts(tokenizer)[0] == tokenizer.decode(out[0, 2:])
    assert out.revealed_in[0, :3].tolist() == [-1, -1, 0]


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize("remask_fraction", [0.0, 0.5])
def test_the_pass_of_each_token_agrees_with_the_history(bert, remasking, remask_fraction):
    out = write(
        bert, remasking=remasking, remask_fraction=remask_fraction, steps=6, output_history=True
    )
    states = [torch.nn.functional.pad(PROMPT, (0, 9), value=MASK), *out.history]
    last = torch.zeros_like(out.sequences)
    for number, (before, after) in enumerate(itertools.pairwise(states), 1):
        last[(before == MASK) & (after != MASK)] = number
    assert torch.equal(out.revealed_in.long(), last)
    assert torch.equal(out.drawn.sum(1) > out.plan.sum(1), torch.full((2,), remask_fraction > 0))
    if not remask_fraction:
        counts = [(out.revealed_in == number).sum(1) for number in range(1, out.nfe + 1)]
        assert torch.equal(torch.stack(counts, 1), out.plan)
        assert torch.equal(out.drawn, out.plan)


def test_rows_that_end_keep_their_passes_and_what_follows_has_none():
    def denoiser(tokens, rows):  # EOS at a column that depends on the row
        logits = torch.zeros(len(rows), 12)
        row, column = rows // tokens.shape[1], rows % tokens.shape[1]
        logits[torch.arange(len(rows)), torch.where(column == 2 + 20 * (row == 1), 10, 3)] = 9
        return logits

    out = sample(
        denoiser,
        torch.full((3, 24), 11),
        mask_token_id=11,
        steps=24,
        remasking="left_to_right",
        draw=DrawOptions(),
        eos_token_ids=[10],
        pad_token_id=0,
    )
    for row, end in enumerate((2, 22, 2)):
        assert out.revealed_in[row].tolist() == [*range(1, end + 2), *[-1] * (23 - end)]
    assert out.eos_token_ids == (10,)


def test_a_notebook_shows_escaped_text_in_the_colours_of_passes(bert, tokenizer):
    prompt = torch.tensor([[7, V - 1, 9]])
    out = write(bert, prompt, tokenizer=tokenizer)
    html = out._repr_html_()
    assert "w7 &lt;b&gt;&amp; w9" in html
    assert "<b>&" not in html
    for number in range(1, 5):
        assert f'title="pass {number}"' in html
    assert "<script" not in html
    shown = write(bert, prompt)._repr_html_()
    assert "7 49 9" in shown  # ids, where no tokenizer is known
    assert "and 12 more" in write(bert, prompt, num_return_sequences=20)._repr_html_()


def test_without_a_seed_torch_s_global_generator_repeats_the_run(bert):
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        runs.append(write(bert, seed=None))
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    assert not torch.equal(runs[0].sequences, runs[2].sequences)
    again = write(bert, seed=runs[0].seeds)
    assert torch.equal(again.sequences, runs[0].sequences)
    assert not torch.equal(write(bert, seed=None).sequences, runs[2].sequences)


def test_with_a_seed_no_global_generator_is_touched(bert):
    state = torch.get_rng_state()
    write(bert, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
