"""MDLM (arXiv 2406.07524): a DiT with an optional time input, no padding, and the mask last."""

from __future__ import annotations

import torch

from mdm_schedules.models.base import CacheSupport, ModelAdapter

EPS = 1e-3  # of the model's log-linear noise: sigma(t) = -log(1 - (1 - EPS) t)


class MDLMAdapter(ModelAdapter):
    """Passes the masked share of each sequence as time.

    The model's SUBS parametrisation adds nothing to the sampling loop, which never draws the mask
    and keeps revealed tokens anyway.
    """

    name = "mdlm"

    @property
    def head(self) -> torch.nn.Module | None:
        """The last linear layer; the layer norm before it is modulated per sequence."""
        layer = getattr(getattr(self.plain_model, "backbone", None), "output_layer", None)
        return getattr(layer, "linear", None)

    @property
    def vocab_size(self) -> int | None:
        """The config's `vocab_size`, which includes the mask."""
        return int(self.plain_model.config.vocab_size)

    @property
    def mask_token_id(self) -> int:
        """The config's id, else the last token."""
        given = super().mask_token_id
        return int(self.plain_model.config.vocab_size) - 1 if given is None else given

    @property
    def max_length(self) -> int | None:
        """The config's `model_length`."""
        return getattr(self.plain_model.config, "model_length", None)

    def cache_support(self) -> CacheSupport:
        """None: the time input changes all keys and values in every pass."""
        return CacheSupport(None, "has a time input, which every pass changes")

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """See `ModelAdapter.forward`.

        The model cannot mask padding; `check_padding` detects that.
        """
        # Under log-linear noise the masked share is the time t itself, of which the model takes
        # sigma(t).
        masked = torch.eq(tokens, self.mask_token_id).float().mean(1)
        # its features of time are float32, which layers of half precision take under autocast only
        dtype = next((x.dtype for x in self.plain_model.parameters()), torch.float32)
        half = dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(tokens.device.type, dtype if half else None, enabled=half):
            answer = self.model(input_ids=tokens, timesteps=-torch.log1p(-(1 - EPS) * masked))
        logits: torch.Tensor = getattr(answer, "logits", answer)
        return logits
