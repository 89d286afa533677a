"""What the sampler needs to know of a model family, in one small class.

A new family is one module beside this one. Register it under the entry-point group
`mdm_schedules.models`, by the `model_type` of its config.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, PluginError
from mdm_schedules.models.cache.store import KVStore
from mdm_schedules.models.cache.windows import Window
from mdm_schedules.models.wrappers import compiled, copies, unwrap
from mdm_schedules.registry import Entry, Registry

# what was found out by trying a model, for each state in which it was tried
_found_out: weakref.WeakKeyDictionary[Any, dict[Any, bool]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class CacheSupport:
    """Which key-value cache a model allows.

    Attributes:
        kind: "exact" where later blocks cannot change what earlier ones computed; "approximate"
            where they can; None for no cache.
        reason: why there is none, or no other, to follow the model's name.
    """

    kind: Literal["exact", "approximate"] | None
    reason: str


def unhooked(kind: str) -> CacheSupport:
    """No cache, for want of an attention implementation that one can be put into."""
    return CacheSupport(
        None,
        f"runs attn_implementation={kind!r}, and a cache needs 'sdpa' or 'eager': "
        "model.set_attn_implementation('sdpa')",
    )


def released_code() -> CacheSupport:
    """No cache, for a model that runs the code of its repository."""
    return CacheSupport(
        None,
        "runs the code of its repository, which takes no cache; load it without "
        "trust_remote_code: AutoModelForMaskedDiffusion.from_pretrained(...)",
    )


class ModelAdapter(ABC):
    """Binds one model; `logits` answers the sampling loop.

    A subclass says how the model is called.

    Attributes:
        model: the model, which is only called.
        shift: 1 where the logits at a position speak of the token after it (Dream), else 0.
    """

    name: str
    shift: int = 0

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def plain_model(self) -> Any:
        """The model without torch.compile's wrapper, which hides its signature and its class."""
        return unwrap(self.model)

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Whether this adapter can drive `model` though none has its model_type; by default never.

        Adapters are asked in the order of their names.
        """
        return False

    @abstractmethod
    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Logits [B, L, V] as the model gives them, for `tokens` LongTensor [B, L].

        `attention_mask` is a bool [B, L], False on padding; None where nothing is padded. What is
        returned may be shorter where the adapter's `head` was given fewer rows.
        """

    @property
    def head(self) -> torch.nn.Module | None:
        """The module that turns hidden states [B, L, H] into logits.

        None asks for all logits every time.
        """
        try:
            head = self.plain_model.get_output_embeddings()
        except (AttributeError, NotImplementedError):
            return None
        return None if isinstance(head, torch.nn.Embedding) else head

    @property
    def device(self) -> torch.device | None:
        """Where token ids have to be: where the model computes.

        Under offload that is not where the model lies. None where nothing is known, as of a
        function: the ids stay where they are.
        """
        model = self.plain_model
        device = getattr(model, "device", None)
        # model offload leaves its hook on the model, sequential offload and dispatch on the modules
        # inside
        inner = model.modules() if getattr(device, "type", None) == "meta" else ()
        for module in (model, *inner):
            place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
            if place is not None:
                return torch.device(place)
        return device

    @property
    def mask_token_id(self) -> int | None:
        """The mask token by the model's config, if the config names it."""
        return getattr(getattr(self.plain_model, "config", None), "mask_token_id", None)

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids that the model can read; None where it is not known."""
        return self.plain_model.get_input_embeddings().num_embeddings  # type: ignore[no-any-return]

    @property
    def max_length(self) -> int | None:
        """The longest sequence that the model has positions for."""
        return getattr(self.plain_model.config, "max_position_embeddings", None)

    @property
    def block_length(self) -> int | None:
        """Length of the model's own attention blocks, counted from the sequence's start.

        None for most models.
        """
        return None

    def check_tokens(  # noqa: B027 - most models begin with any tokens
        self, tokens: torch.Tensor, attention_mask: torch.Tensor, mask_token_id: int
    ) -> None:
        """Raise if the model cannot begin with these `tokens` [B, L].

        `attention_mask` is as in `forward`.
        """

    def logits(
        self, tokens: torch.Tensor, rows: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits of the wanted positions of `tokens` LongTensor [B, L].

        Args:
            tokens: read only.
            rows: LongTensor [R], positions as b * L + column.
            attention_mask: bool [B, L], False on padding; None where nothing is padded.

        Returns:
            [R, V]; or logits [M, V] of more positions together with the LongTensor [R] of the
            wanted ones.
        """
        if self.shift:
            rows = self._sources(rows, tokens.shape[1], attention_mask)
        return self._at_rows(rows, lambda: self.forward(tokens, attention_mask))

    def _at_rows(
        self, rows: torch.Tensor, forward: Callable[[], torch.Tensor]
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if self.head_takes_rows:
            with self._head_on(rows):
                return forward().flatten(0, 1)
        return forward().flatten(0, 1), rows

    # --- passes that compute some columns only

    def cache_support(self) -> CacheSupport:
        """Which key-value cache the model allows; may try it on a few tokens, once."""
        return CacheSupport(None, "has an adapter without a key-value cache")

    def caching(self) -> AbstractContextManager[None]:
        """Held from a run's first cached pass to its last."""
        return nullcontext()

    def forward_window(
        self,
        tokens: torch.Tensor,
        attention_mask: torch.Tensor | None,
        window: Window,
        store: KVStore,
    ) -> torch.Tensor:
        """Logits [B, W, V] of the columns of `window`, which may see the `keys` first columns.

        Args:
            tokens: LongTensor [B, L], whole rows, so that positions and masks are known.
            attention_mask: as in `forward`.
            window: the columns to compute; keys and values of the others are in `store`.
            store: gets the keys and values of the window's columns from the model's attention.
        """
        raise NotImplementedError

    def window_logits(
        self,
        tokens: torch.Tensor,
        rows: torch.Tensor,
        attention_mask: torch.Tensor | None,
        window: Window,
        store: KVStore,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """As `logits`, by a pass over `window`, in which all `rows` have to be."""
        length = tokens.shape[1]
        if self.shift:
            rows = self._sources(rows, length, attention_mask)
        rows = rows // length * (window.stop - window.start) + rows % length - window.start
        return self._at_rows(
            rows, lambda: self.forward_window(tokens, attention_mask, window, store)
        )

    def _sources(
        self, rows: torch.Tensor, length: int, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The positions whose logits predict `rows`.

        A sequence's first token is predicted at its own position.
        """
        column = rows % length
        # The first real token has none before it: as in the released code, its own logits stand for
        # it.
        first = (
            0
            if attention_mask is None
            else attention_mask.to(torch.uint8).argmax(1)[rows // length]
        )
        return torch.where(column > first, rows - self.shift, rows)

    @contextmanager
    def _head_on(self, rows: torch.Tensor) -> Iterator[None]:
        """Give the head only the hidden states at `rows`, as one sequence [1, R, H]."""
        caller = threading.get_ident()

        # A hook runs in every thread that uses the module; only this call's input is cut.
        def gather(module: Any, args: tuple[Any, ...]) -> Any:
            if threading.get_ident() != caller:
                return None
            return (args[0].flatten(0, 1)[rows.to(args[0].device)].unsqueeze(0), *args[1:])

        assert self.head is not None
        hook = self.head.register_forward_pre_hook(gather)
        try:
            yield
        finally:
            hook.remove()

    @property
    def head_takes_rows(self) -> bool:
        """Whether logits of gathered hidden states equal the gathered logits; tried on four tokens.

        Compiled code does not see the hook, and a wrapper that copies the model has no use of it.
        """
        if self.head is None or compiled(self.model) or copies(self.model):
            return False
        return self._try_once("rows", self._try_rows)

    def _try_once(self, what: str, attempt: Callable[[], bool]) -> bool:
        """What `attempt` found in the state that the model is in."""
        # The attention implementation and the head may be changed later, which asks for a new try.
        known = _found_out.setdefault(self.model, {})
        attention = getattr(getattr(self.plain_model, "config", None), "_attn_implementation", None)
        state = (what, type(self), type(self.head), attention, compiled(self.model))
        if state not in known:
            known[state] = attempt()
        return known[state]

    def _try_rows(self) -> bool:
        tokens, rows = self._four_tokens(), torch.tensor([3, 1], device=self.device)
        # Two rows out of order, so that a head that ignores the order of its input is found out
        # too.
        full = self.forward(tokens, None)
        try:
            with self._head_on(rows):
                some = self.forward(tokens, None)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
            return False  # a head that wants the whole sequence: full logits are right, only slower
        return some.shape == (1, 2, full.shape[-1]) and close_logits(some[0], full[0, rows])

    def _four_tokens(self) -> torch.Tensor:
        size = self.vocab_size or 1
        # no special tokens there
        return (torch.arange(4, device=self.device) + size // 2).remainder(size)[None]

    def check_padding(self) -> None:
        """Raise if padding on the left changes what the model says, by a try with four tokens.

        Raises:
            InvalidValueError: the model ignores the attention mask, or shifts positions with the
                padding.
        """
        if not self._try_once("padding", self._try_padding):
            raise InvalidValueError(
                f"{type(self.plain_model).__name__} gives other logits behind padding (it takes no "
                "attention_mask or no position_ids, or reads the padding elsewhere), so a padded "
                "batch would be wrong; generate for prompts of equal length at a time"
            )

    def _try_padding(self) -> bool:
        tokens, mask = self._four_tokens(), self.mask_token_id
        padding = int(tokens[0, -1])
        # a mask among them: ESM scales by the share of masks, which transformers 4.57 takes of the
        # padding, too
        if mask is not None and 0 <= mask < (self.vocab_size or 0):
            tokens[0, 2] = mask
        padded = torch.nn.functional.pad(tokens, (2, 0), value=padding)
        attention_mask = torch.nn.functional.pad(
            torch.ones_like(tokens, dtype=torch.bool), (2, 0), value=False
        )
        alone, beside = self.forward(tokens, None), self.forward(padded, attention_mask)[:, 2:]
        return alone.shape == beside.shape and close_logits(beside, alone)


def close_logits(some: torch.Tensor, full: torch.Tensor) -> bool:
    """Equal but for rounding.

    In half precision rotary positions alone move single logits by more than any fixed bound. There
    the mean error is compared with the logits' own spread.
    """
    if full.dtype in (torch.float32, torch.float64):
        return torch.allclose(some, full, rtol=1e-3, atol=1e-4)
    error = (some.float() - full.float()).pow(2).mean().sqrt()
    return bool(error <= 0.1 * full.float().std())


models: Registry[ModelAdapter] = Registry(
    "mdm_schedules.models",
    "model adapter",
    ModelAdapter,  # type: ignore[type-abstract]
)


def list_models() -> list[Entry]:
    """The model types that an adapter is known for, with the package each comes from."""
    return models.entries()


def get_adapter(model: Any, name: str | None = None) -> ModelAdapter:
    """The adapter for `model`.

    Found by `name`, else by config.model_type, else the first that accepts the model.
    """
    if isinstance(model, ModelAdapter):
        return model
    if name is not None:
        if not isinstance(name, str):
            raise InvalidTypeError(
                f"adapter must be one of {', '.join(models.names())}, got {shown(name)}"
            )
        return models.get(name)(model)
    plain = unwrap(model)
    # By model type first, which loads one plug-in; only then are all of them asked.
    model_type = getattr(getattr(plain, "config", None), "model_type", None)
    if model_type in models:
        return models.get(str(model_type))(model)
    for cls in models.load_all().values():
        if not issubclass(cls, ModelAdapter):
            raise PluginError(f"{cls!r} is no ModelAdapter")
        if cls.accepts(plain):
            return cls(model)
    raise InvalidTypeError(
        f"{type(plain).__name__} (model_type {model_type!r}) is no masked language model that an "
        "adapter accepts; "
        "load one with AutoModelForMaskedDiffusion.from_pretrained(...), or give "
        "adapter='callable' for any model that "
        f"maps tokens [B, L] to logits [B, L, V]. Adapters: {', '.join(models.names())}"
    )
