"""Small random models that are called like the released families LLaDA, Dream, MDLM and LLaDA2.

The original code is in model repositories, which cannot be fetched here. The models have the same
arguments, outputs and place of the head. All consist of the same two bidirectional layers with
rotary-like relative positions.
"""

from types import SimpleNamespace

import torch
from torch import nn

V, MASK, HIDDEN = 60, 59, 16


class Body(nn.Module):
    """Attention by content and relative position.

    `seen` is a bool mask that broadcasts to [B, 1, L, L].
    """

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, HIDDEN)
        self.layers = nn.ModuleList(nn.Linear(HIDDEN, 3 * HIDDEN) for _ in range(2))
        self.near = nn.Embedding(41, 1)

    def forward(self, tokens, seen, positions=None):
        if positions is None:
            positions = torch.arange(tokens.shape[1])[None].expand(tokens.shape)
        hidden = self.embed(tokens)
        bias = self.near((positions[:, :, None] - positions[:, None, :]).clamp(-20, 20) + 20)[
            ..., 0
        ]
        for layer in self.layers:
            query, key, value = layer(hidden).chunk(3, -1)
            scores = query @ key.transpose(1, 2) / 4 + bias
            if seen is not None:
                scores = scores.masked_fill(~seen[:, 0], torch.finfo(scores.dtype).min)
            hidden = hidden + torch.tanh(scores.softmax(-1) @ value)
        return hidden


class Family(nn.Module):
    model_type = ""

    def __init__(self, **config):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(model_type=self.model_type, **config)
        self.model = Body()
        self.lm_head = nn.Linear(HIDDEN, V)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.6)
        self.device = torch.device("cpu")
        self.calls = []

    def get_input_embeddings(self):
        return self.model.embed

    def get_output_embeddings(self):
        return self.lm_head

    def answer(self, hidden):
        self.calls.append(hidden.shape)
        return SimpleNamespace(logits=self.lm_head(hidden))


class LLaDA(Family):
    model_type = "llada"

    def __init__(self):
        super().__init__(mask_token_id=MASK, max_sequence_length=64)

    def forward(self, input_ids, attention_mask=None):
        seen = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        return self.answer(self.model(input_ids, seen))


class Dream(Family):
    model_type = "Dream"

    def __init__(self):
        super().__init__(mask_token_id=MASK, max_position_embeddings=64)

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        assert isinstance(attention_mask, torch.Tensor) or attention_mask == "full"
        seen = None if isinstance(attention_mask, str) else attention_mask
        return self.answer(self.model(input_ids, seen, position_ids))


class LLaDA2(Family):
    model_type = "llada2_moe"

    def __init__(self):
        super().__init__(mask_token_id=MASK, max_position_embeddings=64, block_length=4)

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        assert attention_mask.dtype == torch.float32
        assert attention_mask.shape[1:] == (1, input_ids.shape[1], input_ids.shape[1])
        return self.answer(self.model(input_ids, attention_mask == 0, position_ids))


class MDLM(Family):
    model_type = "mdlm"

    def __init__(self):
        super().__init__(vocab_size=V, model_length=64)
        self.backbone = nn.Module()
        self.backbone.output_layer = nn.Module()
        self.backbone.output_layer.linear = self.lm_head
        self.time = nn.Linear(1, 1)
        self.times = []

    def forward(self, input_ids, timesteps):
        self.times.append(timesteps)
        features = timesteps.clamp(max=3)[:, None, None].float() / 10
        hidden = self.model(input_ids, None) * (1 + self.time(features))
        return self.answer(hidden).logits


FAMILIES = {"llada": LLaDA, "dream": Dream, "llada2": LLaDA2, "mdlm": MDLM}
