"""Ready-made objectives: a metric or a likelihood of samples, given text, or a profile."""

from mdm_schedules.tuning.objectives.base import Objective, Scores
from mdm_schedules.tuning.objectives.generation import GenerationObjective
from mdm_schedules.tuning.objectives.likelihood import LikelihoodObjective, diversity
from mdm_schedules.tuning.objectives.profile import ProfileObjective
from mdm_schedules.tuning.objectives.teacher_forced import TeacherForcedObjective

__all__ = [
    "GenerationObjective",
    "LikelihoodObjective",
    "Objective",
    "ProfileObjective",
    "Scores",
    "TeacherForcedObjective",
    "diversity",
]
