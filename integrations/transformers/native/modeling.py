"""transformers' own Llama, Qwen2, Qwen3, Qwen3-MoE and GLM-4-MoE as masked diffusion models.

Each is a small subclass with a model type of its own, so that a saved folder is never taken for a
causal model, by anybody. Layers, weights, loading and saving are transformers'.

Config values beside those of the base class (all of them optional):
    block_length: a token sees its block and the blocks before; None: the whole sequence.
    logits_shift: 1 where the logits at a position speak of the token after it.
    embed_padding: False where the embedding of the pad token is trained like any other.
    attention_out_bias: whether the attention's last projection has a bias; None: as the base class.
    mask_token_id: what stands for a token that is not yet written.
    released: the config.json that the weights were released with, if they come from a release.
    base_model: the Hub id that they were loaded from, if it is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast, MaskedLMOutput
from transformers.models.glm4_moe import modeling_glm4_moe
from transformers.models.glm4_moe.configuration_glm4_moe import Glm4MoeConfig
from transformers.models.llama import modeling_llama
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3_moe import modeling_qwen3_moe
from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
from transformers.utils import can_return_tuple

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.integrations.transformers.native.attention import positions_of, what_is_seen
from mdm_schedules.integrations.transformers.native.card import write_card


def _recorded(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` as transformers decorates its own.

    The decorators serve output_hidden_states, output_attentions and return_dict.
    """
    try:
        from transformers.utils.generic import (  # type: ignore[attr-defined]
            merge_with_config_defaults,
        )
        from transformers.utils.output_capturing import capture_outputs

        return merge_with_config_defaults(capture_outputs(forward))  # type: ignore[no-any-return]
    except ImportError:
        from transformers.utils.generic import check_model_inputs

        return check_model_inputs(forward)  # type: ignore[no-any-return]


class NativeConfig:
    """What the config classes share; see the module for the values that it adds."""

    block_length = None
    logits_shift = 0
    embed_padding = True
    attention_out_bias = None
    mask_token_id = None
    released = None
    base_model = None
    use_cache = False
    tokenizer_class = None

    def to_dict(self) -> dict[str, Any]:
        """As transformers, with rotary parameters under the names that every version reads."""
        answer: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        rope = answer.pop("rope_parameters", None)
        if rope:
            rope = dict(rope)
            answer["rope_theta"] = rope.pop("rope_theta", 10000.0)
            if "partial_rotary_factor" in rope:
                answer["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
            plain = rope.get("rope_type", "default") == "default"
            answer["rope_scaling"] = None if plain else rope
        return answer


class NativeBody:
    """The base model, without causal masks."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        if not config.embed_padding:
            self.embed_tokens.padding_idx = None  # type: ignore[attr-defined]
        for layer in self.layers:  # type: ignore[attr-defined]
            attention = layer.self_attn
            attention.is_causal = False
            _set_out_bias(attention, config.attention_out_bias)
            if hasattr(layer.mlp, "moe"):  # GLM's mixture of experts up to transformers 4
                layer.mlp.__class__, layer.mlp.gate.__class__ = _OrderedMixture, _GroupRouter
        self.post_init()  # type: ignore[attr-defined]

    @_recorded
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Hidden states [B, L, H] of `input_ids` [B, L] or `inputs_embeds` [B, L, H].

        `attention_mask` is [B, L], 0 on padding, or as `what_is_seen` takes it. Positions count
        from the row's start as in transformers; with blocks, from its first own token. A cache is
        used where `past_key_values` is given, and never made.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InvalidValueError("give either input_ids or inputs_embeds")
        model: Any = self
        hidden = model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        length = hidden.shape[1]
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=hidden.device)[None]
            by_blocks = model.config.block_length is not None
            if by_blocks and isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
                position_ids = positions_of(attention_mask != 0)[:, past:].to(hidden.device)
        mask = what_is_seen(model.config, hidden, attention_mask, position_ids, past)
        rotary = model.rotary_emb(hidden, position_ids)
        for layer in model.layers[: model.config.num_hidden_layers]:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=rotary,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=model.norm(hidden), past_key_values=past_key_values
        )


class NativeHead:
    """The base model and the linear layer that turns hidden states into logits."""

    body_class: type[Any]

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.model = self.body_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[attr-defined]

    @can_return_tuple  # type: ignore[untyped-decorator, unused-ignore]
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits [B, L, V]; see the base model's forward.

        With `labels` [B, L], the mean cross-entropy of the positions where they are not -100, each
        against the logits that speak of it (`config.logits_shift`).
        """
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        hidden = out.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden if labels is not None else hidden[:, keep, :])
        loss = None
        if labels is not None:
            shift = int(self.config.logits_shift)  # type: ignore[attr-defined]
            loss = nn.functional.cross_entropy(
                logits[:, : logits.shape[1] - shift].flatten(0, 1).float(),
                labels[:, shift:].flatten().to(logits.device),
            )
        return MaskedLMOutput(
            loss=cast(Any, loss),  # transformers 4 says FloatTensor
            logits=logits,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kw: Any) -> Any:
        # where transformers publishes a model, by push_to_hub or by saving it
        base = self.config.base_model  # type: ignore[attr-defined]
        if base is not None:
            write_card(working_dir, base, repo_id)
        plain = super()._upload_modified_files  # type: ignore[misc]
        return plain(working_dir, repo_id, *args, **kw)


def _set_out_bias(attention: nn.Module, wanted: bool | None) -> None:
    out: Any = attention.o_proj
    if wanted is None or wanted == (out.bias is not None):
        return
    out.bias = nn.Parameter(torch.zeros(out.out_features)) if wanted else None


class _GroupRouter(modeling_glm4_moe.Glm4MoeTopkRouter):
    """A router that never chooses an expert outside the chosen groups.

    Up to transformers 4, its router counts such experts as 0, which is more than a negative bias
    leaves the others.
    """

    def get_topk_indices(self, scores: torch.Tensor) -> torch.Tensor:
        """The chosen experts [T, k] for scores [T, E], the best first."""
        router: Any = self
        biased = scores.view(-1, router.n_routed_experts) + router.e_score_correction_bias[None]
        grouped: torch.Tensor = biased.unflatten(1, (router.n_group, -1))
        groups = grouped.topk(2, dim=-1)[0].sum(-1).topk(router.topk_group, dim=-1)[1]
        chosen = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(1, groups, True)
        biased = grouped.masked_fill(~chosen[..., None], float("-inf")).flatten(1)
        return biased.topk(router.top_k, dim=-1)[1]


class _OrderedMixture(modeling_glm4_moe.Glm4MoeMoE):
    """Runs only the experts that a token chose, and adds them up from the best to the last."""

    def moe(
        self, hidden: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """The experts' answer [T, H] to `hidden` [T, H]; `indices` and `weights` are [T, k]."""
        experts: Any = self.experts
        order = indices.flatten().argsort()
        counts = torch.bincount(indices.flatten(), minlength=len(experts)).tolist()
        rows = hidden[order // indices.shape[1]].split(counts)
        answers = [experts[i](x) for i, x in enumerate(rows) if len(x)]
        each = torch.cat(answers)[order.argsort()].view(*indices.shape, -1)
        return (each.to(weights.dtype) * weights[..., None]).sum(1).to(hidden.dtype)


class MDMLlamaConfig(NativeConfig, LlamaConfig):  # type: ignore[misc]
    """Config of `MDMLlamaForMaskedLM`."""

    model_type = "mdm_llama"


class MDMQwen2Config(NativeConfig, Qwen2Config):  # type: ignore[misc]
    """Config of `MDMQwen2ForMaskedLM`."""

    model_type = "mdm_qwen2"


class MDMQwen3Config(NativeConfig, Qwen3Config):  # type: ignore[misc]
    """Config of `MDMQwen3ForMaskedLM`."""

    model_type = "mdm_qwen3"


class MDMQwen3MoeConfig(NativeConfig, Qwen3MoeConfig):  # type: ignore[misc]
    """Config of `MDMQwen3MoeForMaskedLM`."""

    model_type = "mdm_qwen3_moe"


class MDMGlm4MoeConfig(NativeConfig, Glm4MoeConfig):  # type: ignore[misc]
    """Config of `MDMGlm4MoeForMaskedLM`."""

    model_type = "mdm_glm4_moe"


def _classes(config_class: Any, module: Any, name: str) -> Any:
    """The head for `config_class`, over the classes `name`* of transformers' `module`."""
    plain, causal = getattr(module, f"{name}PreTrainedModel"), getattr(module, f"{name}ForCausalLM")
    shared = {"__module__": __name__, "config_class": config_class}
    body = type(f"MDM{name}Model", (NativeBody, getattr(module, f"{name}Model")), shared)
    taken = ("_tied_weights_keys", "_tp_plan", "_pp_plan", "_fsdp_plan")
    kept = {key: getattr(causal, key) for key in taken if getattr(causal, key, None) is not None}
    kept |= {"body_class": body, "__doc__": f"{name} as a masked diffusion model."}
    globals()[body.__name__] = body
    return type(f"MDM{name}ForMaskedLM", (NativeHead, plain), shared | kept)


MDMLlamaForMaskedLM = _classes(MDMLlamaConfig, modeling_llama, "Llama")
MDMQwen2ForMaskedLM = _classes(MDMQwen2Config, modeling_qwen2, "Qwen2")
MDMQwen3ForMaskedLM = _classes(MDMQwen3Config, modeling_qwen3, "Qwen3")
MDMQwen3MoeForMaskedLM = _classes(MDMQwen3MoeConfig, modeling_qwen3_moe, "Qwen3Moe")
MDMGlm4MoeForMaskedLM = _classes(MDMGlm4MoeConfig, modeling_glm4_moe, "Glm4Moe")

NATIVE: dict[str, tuple[Any, Any]] = {
    model.config_class.model_type: (model.config_class, model)
    for model in (
        MDMLlamaForMaskedLM,
        MDMQwen2ForMaskedLM,
        MDMQwen3ForMaskedLM,
        MDMQwen3MoeForMaskedLM,
        MDMGlm4MoeForMaskedLM,
    )
}


def register() -> None:
    """Make transformers' AutoConfig, AutoModel and AutoModelForMaskedLM know the native models."""
    for model_type, (config, model) in NATIVE.items():
        transformers.AutoConfig.register(model_type, config, exist_ok=True)
        transformers.AutoModel.register(config, model.body_class, exist_ok=True)
        transformers.AutoModelForMaskedLM.register(config, model, exist_ok=True)
    try:
        from transformers import conversion_mapping as mapping  # type: ignore[attr-defined]
    except ImportError:  # up to transformers 4 experts are modules, as in the files
        return
    for model_type in ("mdm_qwen3_moe", "mdm_glm4_moe"):
        fused = mapping.get_checkpoint_conversion_mapping(model_type.removeprefix("mdm_"))
        if fused is not None:
            mapping.register_checkpoint_conversion_mapping(model_type, fused, overwrite=True)


register()
