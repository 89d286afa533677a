"""The sampler: options, the one loop, and what it is made of; README.md here is the guide."""

from mdm_schedules.sampling.commits import CommitRule, commits, get_commit, list_commits
from mdm_schedules.sampling.draw import DrawOptions
from mdm_schedules.sampling.generation import generate
from mdm_schedules.sampling.loop import sample
from mdm_schedules.sampling.output import GenerationOutput, StepInfo
from mdm_schedules.sampling.policies import (
    ConfidencePolicy,
    OrderPolicy,
    PositionPolicy,
    get_policy,
    list_policies,
    policies,
)

__all__ = [
    "CommitRule",
    "ConfidencePolicy",
    "DrawOptions",
    "GenerationOutput",
    "OrderPolicy",
    "PositionPolicy",
    "StepInfo",
    "commits",
    "generate",
    "get_commit",
    "get_policy",
    "list_commits",
    "list_policies",
    "policies",
    "sample",
]
