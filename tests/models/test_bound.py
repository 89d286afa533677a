"""What every adapter has from ModelAdapter: rows for the head, the tries of a model, the shift."""

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mdm_schedules.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from mdm_schedules.models import ModelAdapter, get_adapter
from mdm_schedules.models.base import close_logits
from mdm_schedules.models.cache.windows import Window

V = 20


class Toy(nn.Module):
    """Logits of a token from that token alone, unless told otherwise."""

    def __init__(self, head=None, size=V):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(size, 8), head or nn.Linear(8, V)
        self.config = SimpleNamespace(model_type="toy", mask_token_id=V - 1)
        self.calls = 0

    def forward(self, tokens, attention_mask=None):
        self.calls += 1
        return self.head(self.embedding(tokens))

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head


class Bound(ModelAdapter):
    name = "toy"
    max_length = None

    def forward(self, tokens, attention_mask):
        return self.model(tokens, attention_mask)


def windowed(shift):
    """An adapter whose logits say of which row and column they are."""

    class Windowed(Bound):
        head_takes_rows = False

        def forward(self, tokens, attention_mask):
            columns = torch.arange(tokens.shape[1]).expand(tokens.shape)
            return (columns + 100 * torch.arange(len(tokens))[:, None])[..., None]

        def forward_window(self, tokens, attention_mask, window, store):
            return self.forward(tokens, attention_mask)[:, window.start : window.stop]

    Windowed.shift = shift
    return Windowed(Toy())


def told(answer):
    logits, rows = answer
    return logits[rows, 0].tolist()


# --- the rows that are asked for


@pytest.mark.parametrize("shift", [0, 1])
def test_the_rows_asked_for_are_found_in_the_whole_and_in_a_window(shift):
    bound, tokens = windowed(shift), torch.zeros(3, 9, dtype=torch.long)
    rows = torch.tensor([0 * 9 + 4, 2 * 9 + 6, 1 * 9 + 5])
    at = [4 - shift, 206 - shift, 105 - shift]
    assert told(bound.logits(tokens, rows, None)) == at
    for start in (1, 2, 3):
        window = Window(start, 8, 9, full=False, one_block=False)
        assert told(bound.window_logits(tokens, rows, None, window, None)) == at


def test_a_first_token_is_predicted_where_it_stands():
    """With shift 1: logits speak of the next token, and none speak of the first one."""
    bound, tokens = windowed(1), torch.zeros(3, 4, dtype=torch.long)
    rows = torch.arange(12)
    plain = [0, 0, 1, 2, 100, 100, 101, 102, 200, 200, 201, 202]
    assert told(bound.logits(tokens, rows, None)) == plain
    padding = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]).bool()
    padded = [0, 0, 1, 2, 100, 101, 102, 102, 200, 201, 202, 203]
    assert told(bound.logits(tokens, rows, padding)) == padded


def test_the_head_gets_the_rows_of_its_own_call_and_the_hook_goes():
    model = Toy()
    bound, other = Bound(model), Bound(model)
    tokens = torch.arange(6).view(2, 3)
    full = model(tokens).flatten(0, 1)
    rows = torch.tensor([4, 1, 1])
    torch.testing.assert_close(bound.logits(tokens, rows, None), full[rows])
    seen, forward = [], model.forward

    def meanwhile(tokens, attention_mask=None):
        """Another thread runs the same module between our hook and our call."""
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=lambda: seen.append(other.model(tokens)))
            thread.start()
            thread.join()
        return forward(tokens, attention_mask)

    model.forward = meanwhile
    torch.testing.assert_close(bound.logits(tokens, rows, None), full[rows])
    torch.testing.assert_close(seen[0].flatten(0, 1), full)

    def fail(tokens, attention_mask=None):
        forward(tokens, attention_mask)
        raise RuntimeError("out of memory")

    model.forward = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        bound.logits(tokens, rows, None)
    del model.forward
    assert not model.head._forward_pre_hooks
    torch.testing.assert_close(model(tokens).flatten(0, 1), full)


# --- what is found out by trying


class Mixing(nn.Module):
    """A head that looks at the whole sequence."""

    def __init__(self, how):
        super().__init__()
        self.linear, self.how = nn.Linear(8, V), how

    def forward(self, hidden):
        return self.how(self.linear(hidden), hidden)


def fails(error):
    def how(logits, hidden):
        if hidden.shape[1] == 2:
            raise error("two rows")
        return logits

    return how


@pytest.mark.parametrize(
    "how",
    [
        lambda logits, hidden: logits + logits.mean(1, keepdim=True),
        lambda logits, hidden: logits + torch.arange(hidden.shape[1])[:, None],
        lambda logits, hidden: logits.sort(1).values,
        lambda logits, hidden: logits[:, :1],
        lambda logits, hidden: logits[..., : 10 + hidden.shape[1]],
        lambda logits, hidden: torch.cat([logits, logits], 1) if hidden.shape[1] == 2 else logits,
        *map(fails, (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)),
    ],
)
def test_a_head_that_wants_the_whole_sequence_gets_it(how):
    model = Toy(Mixing(how)).eval()
    bound = Bound(model)
    assert not bound.head_takes_rows
    logits, rows = bound.logits(torch.arange(6).view(2, 3), torch.tensor([4, 1]), None)
    assert len(logits) == (
        2 if how(torch.zeros(1, 3, V), torch.zeros(1, 3, 8)).shape[1] == 1 else 6
    )
    assert rows.tolist() == [4, 1]


def test_a_model_is_tried_once_for_each_state_that_it_is_in():
    model = Toy()
    assert Bound(model).head_takes_rows
    assert model.calls == 2  # whole, and by rows
    assert Bound(model).head_takes_rows
    assert model.calls == 2
    model.head = Mixing(lambda logits, hidden: logits + logits.mean(1, keepdim=True))
    assert not Bound(model).head_takes_rows
    assert model.calls == 4
    model.config._attn_implementation = "eager"
    assert not Bound(model).head_takes_rows
    assert model.calls == 6
    # another model of the class is another model
    assert Bound(Toy()).head_takes_rows


def test_models_whose_head_is_unknown_or_an_embedding_are_asked_for_everything():
    class Headless(Toy):
        def get_output_embeddings(self):
            raise NotImplementedError

    tied = Toy()
    tied.get_output_embeddings = lambda: tied.embedding
    for model in (Headless(), tied, nn.DataParallel(Toy())):
        assert not Bound(model).head_takes_rows
    assert Bound(Headless()).head is None
    assert Bound(tied).head is None
    assert Bound(Toy()).head is not None
    assert Bound(SimpleNamespace()).head is None


@pytest.mark.parametrize(
    ("size", "tokens"), [(20, [10, 11, 12, 13]), (5, [2, 3, 4, 0]), (1, [0] * 4)]
)
def test_a_model_is_tried_with_tokens_of_its_own(size, tokens):
    """From the middle of the vocabulary, since special tokens stand at its ends."""
    seen = []

    class Noted(Bound):
        def forward(self, tokens, attention_mask):
            seen.append(tokens.tolist())
            return super().forward(tokens, attention_mask)

    assert Noted(Toy(size=size)).head_takes_rows
    assert seen == [[tokens]] * 2


@pytest.mark.parametrize(("mask", "third"), [(V - 1, V - 1), (0, 0), (None, 12), (V, 12), (-1, 12)])
def test_padding_is_tried_on_the_left_with_a_mask_among_the_tokens(mask, third):
    seen = []

    class Noted(Bound):
        def forward(self, tokens, attention_mask):
            seen.append(
                (tokens.tolist(), None if attention_mask is None else attention_mask.tolist())
            )
            return super().forward(tokens, attention_mask)

    model = Toy()
    model.config.mask_token_id = mask
    Noted(model).check_padding()
    own = [10, 11, third, 13]
    assert seen == [([own], None), ([[13, 13, *own]], [[False, False, True, True, True, True]])]


@pytest.mark.parametrize(
    "change",
    [
        lambda logits, tokens: logits + logits.mean(1, keepdim=True),
        lambda logits, tokens: logits + torch.arange(tokens.shape[1])[:, None],
        lambda logits, tokens: logits + (tokens == V - 1).float().mean(),
        lambda logits, tokens: logits[:, -3:],
    ],
    ids=["sees padding", "counts positions", "counts masks", "too short"],
)
def test_a_model_that_minds_padding_is_refused(change):
    class Minds(Toy):
        def forward(self, tokens, attention_mask=None):
            return change(super().forward(tokens), tokens)

    bound = Bound(Minds())
    for _ in range(2):
        with pytest.raises(InvalidValueError, match="Minds gives other logits behind padding"):
            bound.check_padding()
    Bound(Toy()).check_padding()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_the_same_but_for_rounding(dtype):
    full = torch.linspace(-20, 20, 101, dtype=dtype)[None]
    assert close_logits(full, full)
    assert close_logits(full + 0.9e-4, full)
    assert not close_logits(full + 1.1e-3, full)
    one = full.clone()
    one[0, 50] += 1e-3
    assert not close_logits(one, full)
    assert close_logits(full * (1 + 0.9e-3), full)
    assert not close_logits(full * (1 + 1.2e-3), full)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_error_is_compared_with_the_spread(dtype):
    full = torch.tensor([[-2.0, 0.0, 2.0]], dtype=dtype)  # of standard deviation 2
    for error, close in ((0.0, True), (0.125, True), (0.1875, True), (0.25, False), (-0.25, False)):
        assert close_logits(full + error, full) == close
    # one number may be far off
    one = full.repeat(1, 33)
    one[0, 0] += 1
    assert close_logits(one, full.repeat(1, 33))


# --- where a model computes


def test_the_device_is_where_the_model_computes():
    model, inner = Toy(), nn.Linear(2, 2)
    assert Bound(model).device is None
    model.device = torch.device("cpu")
    assert Bound(model).device == torch.device("cpu")
    # offload leaves a hook on the model, or on modules inside one that has no values itself
    model._hf_hook = SimpleNamespace(execution_device="cuda:0")
    assert Bound(model).device == torch.device("cuda:0")
    model._hf_hook = SimpleNamespace(execution_device=None)
    assert Bound(model).device == torch.device("cpu")
    inner._hf_hook = SimpleNamespace(execution_device="cuda:1")
    model.inner = inner
    assert Bound(model).device == torch.device("cpu")
    model.device = torch.device("meta")
    assert Bound(model).device == torch.device("cuda:1")


# --- finding one


def test_an_adapter_is_found_by_name_or_is_one():
    bound = Bound(Toy())
    assert get_adapter(bound) is bound
    assert get_adapter(Toy(), "callable").name == "callable"
    with pytest.raises(InvalidTypeError, match=r"must be one of .*callable.*, got 3"):
        get_adapter(Toy(), 3)
    with pytest.raises(UnknownNameError, match="callable"):
        get_adapter(Toy(), "calable")
    with pytest.raises(InvalidTypeError, match=r"Toy \(model_type 'toy'\) is no masked language"):
        get_adapter(Toy())
