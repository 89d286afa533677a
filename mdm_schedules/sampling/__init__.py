"""The one sampling loop, and what it is made of: token draw, position policies, per-sequence
noise, options.
"""

from mdm_schedules.sampling.counts import CommitRule
from mdm_schedules.sampling.draw import DrawOptions
from mdm_schedules.sampling.loop import Denoiser, sample
from mdm_schedules.sampling.output import GenerationOutput, StepInfo
from mdm_schedules.sampling.policy import POLICIES, ConfidencePolicy, OrderPolicy

__all__ = [
    "POLICIES",
    "CommitRule",
    "ConfidencePolicy",
    "Denoiser",
    "DrawOptions",
    "GenerationOutput",
    "OrderPolicy",
    "StepInfo",
    "sample",
]
