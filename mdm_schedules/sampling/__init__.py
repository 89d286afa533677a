"""The sampler: options, the one loop, and what it is made of; README.md here is the guide."""

# Arrays in this room end in the letters of their shape, as in `tokens_BL`:
#
#   A  all rows of the batch that the run began with
#   B  rows that go on: all of them, until one has ended and leaves
#   L  columns of a sequence: the prompt, then the answer
#   N  blocks
#   K  steps of a block
#   W  columns of the queue: the masks of the block's fullest row
#   R  positions that a pass asks the model for, taken from all rows
#   M  rows of logits that the model returned; the R wanted ones are among them
#   V  tokens of the vocabulary
#   S  segments of a row of logits
#   C  columns of a segment
#
# A letter that a name lacks is a 1 that broadcasts, or stands in the docstring.

from mdm_schedules.sampling.commits import CommitRule, commits, get_commit, list_commits
from mdm_schedules.sampling.draw import DrawOptions
from mdm_schedules.sampling.generation import generate
from mdm_schedules.sampling.loop import sample
from mdm_schedules.sampling.orders import token_frequencies
from mdm_schedules.sampling.output import GenerationOutput, StepInfo
from mdm_schedules.sampling.policies import (
    ConfidencePolicy,
    OrderPolicy,
    PositionPolicy,
    get_policy,
    list_policies,
    policies,
)
from mdm_schedules.sampling.remask import RemaskFraction
from mdm_schedules.sampling.where import Where

__all__ = [
    "CommitRule",
    "ConfidencePolicy",
    "DrawOptions",
    "GenerationOutput",
    "OrderPolicy",
    "PositionPolicy",
    "RemaskFraction",
    "StepInfo",
    "Where",
    "commits",
    "generate",
    "get_commit",
    "get_policy",
    "list_commits",
    "list_policies",
    "policies",
    "sample",
    "token_frequencies",
]
