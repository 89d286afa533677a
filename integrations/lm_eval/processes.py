"""Several processes, as `accelerate launch` or `torchrun` starts them.

lm-eval gives each its share of the requests.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from lm_eval.api.model import TemplateLM


def joined_processes() -> Any:
    """accelerate's state of this process, on its own device; None if it is the only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # left to itself, accelerate takes processes without a GPU for single ones
    has_device = getattr(torch, "accelerator", torch.cuda).is_available()
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not has_device)


class SharedLM(TemplateLM):  # type: ignore[misc]
    """The part of an lm-eval model that knows the number of processes, and gathers results."""

    def __init__(self) -> None:
        super().__init__()
        self._state = joined_processes()
        if self._state is not None:
            # lm-eval deals out the documents by these two.
            self._rank, self._world_size = self._state.process_index, self._state.num_processes

    def work_alone(self) -> None:
        """Take all requests, for processes that each have their own work."""
        self._state, self._rank, self._world_size = None, 0, 1

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
