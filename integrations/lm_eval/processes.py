"""Several processes, as `accelerate launch` or `torchrun` starts them: lm-eval gives each its share of the requests."""

from __future__ import annotations

import os
from typing import Any

import torch
from lm_eval.api.model import TemplateLM


class SharedLM(TemplateLM):  # type: ignore[misc]
    """The part of an lm-eval model that tells how many processes there are, and gathers."""

    def __init__(self) -> None:
        super().__init__()
        self._state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self._state = PartialState()
            self._rank, self._world_size = self._state.process_index, self._state.num_processes

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all processes, one after the other."""
        if self._state is None:
            return tensor
        from accelerate.utils import gather

        return gather(tensor.to(self._state.device))  # type: ignore[no-any-return]

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all processes, in process `dst`."""
        if self._state is None:
            return [obj]
        from accelerate.utils import gather_object

        everything = gather_object([obj])  # which joins the lists
        return list(everything) if self.rank == dst else None

    def barrier(self) -> None:
        """Wait for the others."""
        if self._state is not None:
            self._state.wait_for_everyone()
