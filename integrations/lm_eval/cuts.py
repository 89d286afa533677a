"""Texts that are longer than the model reads: what is left of them, and a warning with counts."""

from __future__ import annotations

import logging


class Cuts:
    """Cuts texts at their beginning, and counts them.

    Args:
        max_length: tokens that the model reads; None for any number.
        bos_token_id: kept at the beginning where a text has it; None if there is none.

    Attributes:
        counts: prompts and contexts that were cut, and the most tokens that one of them lost.
    """

    def __init__(self, max_length: int | None, bos_token_id: int | None) -> None:
        self.max_length, self.bos_token_id = max_length, bos_token_id
        self.counts = {"prompts": 0, "contexts": 0, "most_tokens": 0}
        self._said: dict[str, int] = {}  # of each kind, the cuts that the log knows of

    def end(self, ids: list[int], room: int, kind: str) -> list[int]:
        """The last `room` tokens, after the beginning-of-sequence token where there was one."""
        # The end is kept, since the question comes last, after the examples.
        if len(ids) <= room:
            return ids
        self.counts[kind] += 1
        self.counts["most_tokens"] = max(self.counts["most_tokens"], len(ids) - room)
        bos = self.bos_token_id
        first = ids[:1] if bos is not None and ids[:1] == [bos] and room > 1 else []
        return [*first, *ids[len(ids) - room + len(first) :]]

    def warn(self, kind: str, total: int) -> None:
        """Say how many were cut since the last warning."""
        number = self.counts[kind] - self._said.get(kind, 0)
        if number:
            self._said[kind] = self.counts[kind]
            logging.getLogger("mdm_schedules").warning(
                f"{number} of {total} {kind} did not fit into the {self.max_length} tokens that "
                f"the model reads (max_length), and lost up to {self.counts['most_tokens']} "
                "tokens at their beginning; scores may be lower for it. Use fewer few-shot "
                "examples, or a smaller max_new_tokens"
            )
