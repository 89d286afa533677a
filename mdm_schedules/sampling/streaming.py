"""transformers' streamers, fed from the callback of the sampling loop."""

from __future__ import annotations

from typing import Any

import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.sampling.output import StepInfo


class StreamerFeed:
    """Puts the prompt, then the answer's filled prefix as it grows.

    Drafts of the rest are put where the streamer takes them. A TextDiffusionStreamer (transformers
    5) has `put_draft`; a TextStreamer gets whole words as they become final.

    Args:
        streamer: has `put` and `end`.
        prompt: LongTensor [1, P].
        mask_token_id: what is not filled yet.
        final: whether a filled token stays as it is (not with remask, nor before an end of sequence
            is looked for).
    """

    def __init__(
        self, streamer: Any, prompt: torch.Tensor, mask_token_id: int, final: bool
    ) -> None:
        if not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise InvalidTypeError(
                f"streamer must have put and end, as transformers' have, got {shown(streamer)}"
            )
        if len(prompt) > 1:
            raise InvalidValueError(f"a streamer takes one sequence, got a batch of {len(prompt)}")
        if bool((prompt == mask_token_id).any()):
            raise InvalidValueError(
                "a streamer writes from left to right, so the prompt cannot hold masks to be filled"
            )
        self.streamer, self.mask_token_id, self.final = streamer, mask_token_id, final
        self.written = prompt.shape[1]
        streamer.put(prompt.cpu())

    def __call__(self, info: StepInfo) -> None:
        """The callback of `sample`."""
        answer = info.tokens[0, self.written :].cpu()
        masked = answer == self.mask_token_id
        ready = 0
        if self.final:
            ready = int(masked.to(torch.uint8).argmax()) if bool(masked.any()) else len(answer)
        self._put(answer[:ready])
        if ready < len(answer) and hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(answer[ready:])

    def _put(self, tokens: torch.Tensor) -> None:
        if len(tokens):
            self.streamer.put(tokens)
            self.written += len(tokens)

    def end(self, sequences: torch.Tensor) -> None:
        """What was not final before, and the end."""
        self._put(sequences[0, self.written :].cpu())
        self.streamer.end()
