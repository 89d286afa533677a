"""What a policy is asked, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class RemaskStepResult:
    committed_token_ids: tuple[int, ...]
    next_input_block: tuple[int, ...]


class RemaskingPolicy(Protocol):
    def apply(
        self,
        *,
        input_draft: Sequence[int],
        logits: Any | None = None,
        remasking_config: Mapping[str, Any] | None = None,
    ) -> RemaskStepResult: ...
