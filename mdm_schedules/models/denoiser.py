"""The interface through which the sampling loop calls a model, and its only factory."""

from __future__ import annotations

import inspect
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.models.base import ModelAdapter, get_adapter
from mdm_schedules.models.cache import PassCache
from mdm_schedules.models.wrappers import unwrap

Logits = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Pass:
    """The place of a forward pass; it depends on the plan and the blocks, never on the batch.

    Attributes:
        start, end: columns of the block that may change in this pass.
        step: column of the block's plan. Do not count calls with it: a step that reveals nothing in
            any row of the batch is not run.
        length: width of the finished sequences.
        block: number of the block.
    """

    start: int
    end: int
    step: int
    length: int
    block: int = 0


class Denoiser(ABC):
    """A model as the sampling loop calls it: logits for some positions of some sequences.

    Attributes:
        whole_batch: True if every call must contain all rows that the run began with. The loop then
            never calls `keep`.
    """

    whole_batch: bool = False

    @abstractmethod
    def __call__(self, tokens: torch.Tensor, rows: torch.Tensor) -> Logits:
        """Return logits of the wanted positions.

        Args:
            tokens: LongTensor [B, L]; do not modify.
            rows: LongTensor [R], wanted positions as b * L + column.

        Returns:
            logits [R, V]; or logits [M, V] of more positions, and a LongTensor [R] that selects the
            wanted rows.
        """

    def at(self, where: Pass) -> None:  # noqa: B027 - most models need not know
        """Receive the place of the next pass; called before each pass.

        Columns outside [start, end) are as in the last call, except for tokens that the previous
        block wrote.
        """

    def keep(self, rows: torch.Tensor) -> None:  # noqa: B027 - most models have no state by row
        """Receive the LongTensor of the rows that later calls contain, when others have ended."""

    def close(self) -> None:  # noqa: B027 - most models hold nothing
        """Release resources: called once after the last pass, also after an error."""


class FunctionDenoiser(Denoiser):
    """Wraps a function (tokens, rows) -> logits; without a method `keep` it gets whole batches."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], Logits]) -> None:
        self.function = function
        self.whole_batch = not hasattr(function, "keep")

    def __call__(self, tokens: torch.Tensor, rows: torch.Tensor) -> Logits:
        return self.function(tokens, rows)

    def keep(self, rows: torch.Tensor) -> None:
        """Call the function's own method `keep`, if it has one."""
        self.function.keep(rows)  # type: ignore[attr-defined]


class ModelDenoiser(Denoiser):
    """Calls a model through its adapter, with padding and guidance.

    Args:
        adapter: the model's adapter.
        attention_mask: bool [B, L], False on padding; None if nothing is padded.
        prompt: bool [B, L], True on the tokens that guidance hides; None for no guidance.
        mask_token_id: the token that replaces the hidden prompt; needed with `prompt` only.
        cfg_scale: guidance scale; with logits c given the prompt and u without it, the result is u
            + (cfg_scale + 1)(c - u).
        cache: keeps keys and values between passes; None computes every column in every pass.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        attention_mask: torch.Tensor | None = None,
        prompt: torch.Tensor | None = None,
        mask_token_id: int = -1,
        cfg_scale: float = 0.0,
        cache: PassCache | None = None,
    ) -> None:
        self.adapter, self.attention_mask, self.prompt = adapter, attention_mask, prompt
        self.mask_token_id, self.cfg_scale, self.cache = mask_token_id, cfg_scale, cache

    def __call__(self, tokens: torch.Tensor, rows: torch.Tensor) -> Logits:
        mask = None if self.attention_mask is None else self.attention_mask[:, : tokens.shape[1]]
        if self.prompt is None:
            return self._logits(tokens, rows, mask)
        # Classifier-free guidance as LLaDA has it (arXiv 2502.09992): once more with the prompt
        # hidden.
        blind = tokens.masked_fill(self.prompt[:, : tokens.shape[1]], self.mask_token_id)
        # one pass for both: the sequences without their prompt follow those with it
        rows = torch.cat([rows, rows + tokens.numel()])
        mask = None if mask is None else torch.cat([mask, mask])
        answer = self._logits(torch.cat([tokens, blind]), rows, mask)
        logits = answer[0][answer[1]] if isinstance(answer, tuple) else answer
        conditional, unconditional = logits.chunk(2)
        return unconditional + (self.cfg_scale + 1) * (conditional - unconditional)

    def _logits(
        self, tokens: torch.Tensor, rows: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> Logits:
        source = self.adapter if self.cache is None else self.cache
        return source.logits(tokens, rows, attention_mask)

    def at(self, where: Pass) -> None:
        if self.cache is not None:
            self.cache.at(where)

    def keep(self, rows: torch.Tensor) -> None:
        if self.cache is not None:
            both = rows if self.prompt is None else torch.cat([rows, rows + len(self.prompt)])
            self.cache.keep(both)
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask[rows]
        if self.prompt is not None:
            self.prompt = self.prompt[rows]

    def close(self) -> None:
        if self.cache is not None:
            self.cache.close()


def as_denoiser(model: Any, adapter: str | None = None) -> Denoiser:
    """Return `model` as a denoiser.

    Args:
        model: a Denoiser; a ModelAdapter; a model that an adapter accepts; an object whose method
            `denoiser()` makes one; a function (tokens, rows) -> logits as `Denoiser.__call__`; or a
            function or module from tokens [B, L] to logits [B, L, V].
        adapter: name of the adapter; by default the model determines it.

    Raises:
        InvalidTypeError: `model` is none of these.
    """
    if isinstance(model, Denoiser):
        return model
    if adapter is None and not isinstance(model, ModelAdapter | torch.nn.Module):
        if callable(getattr(model, "denoiser", None)):
            made: Denoiser = model.denoiser()
            return made
        # Two arguments are (tokens, rows), a denoiser as a function; one is tokens -> logits.
        if _required(model) == 2:
            return FunctionDenoiser(model)
    return ModelDenoiser(adapter_of(model, adapter))


def adapter_of(model: Any, adapter: str | None = None) -> ModelAdapter:
    """Return the adapter of `model`; a module that none accepts is treated as tokens -> logits."""
    try:
        return get_adapter(model, adapter)
    except InvalidTypeError:
        if adapter is not None or not callable(model):
            raise
        return get_adapter(model, "callable")


def _required(function: Any) -> int:
    """Count the positional arguments that must be given; 0 if the number cannot be determined."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(x.kind in kinds and x.default is inspect.Parameter.empty for x in parameters)


# modules under `evaluating`: number of running calls, and the mode before the first of them
_modes: weakref.WeakKeyDictionary[torch.nn.Module, tuple[int, bool]] = weakref.WeakKeyDictionary()
_modes_lock = threading.Lock()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Turn off gradients and dropout; the last user of a submodule restores its mode.

    Several threads may run one model. Its uses are counted, so that the first thread to finish does
    not turn dropout on again for the others.
    """
    plain = unwrap(model)
    held = []
    with _modes_lock:
        for module in plain.modules() if isinstance(plain, torch.nn.Module) else ():
            # Counted per module: calls in several threads may share a model, or a part of it, and
            # the last one to end restores the mode that the first one found.
            users, training = _modes.get(module, (0, module.training))
            if training:
                _modes[module] = (users + 1, training)
                module.training = False
                held.append(module)
    try:
        with torch.no_grad():
            yield
    finally:
        with _modes_lock:
            for module in held:
                users, training = _modes.pop(module)
                if users > 1:
                    _modes[module] = (users - 1, training)
                else:
                    module.training = training


def takes_padding(adapter: ModelAdapter) -> bool:
    """Whether padded sequences get the logits that they get alone; tried once, on a few tokens."""
    try:
        with evaluating(adapter.model):
            adapter.check_padding()
    except InvalidValueError:
        return False
    return True
