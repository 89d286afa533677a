"""Find the schedule for a model, a task and a number of steps, without training: `tune`.

A new objective is a function schedule -> score; `Objective` lists its optional attributes.
"""

from mdm_schedules.tuning.decoding import Decoding
from mdm_schedules.tuning.front import FrontPoint
from mdm_schedules.tuning.objectives.base import Objective, Scores
from mdm_schedules.tuning.objectives.generation import GenerationObjective
from mdm_schedules.tuning.objectives.likelihood import LikelihoodObjective, diversity
from mdm_schedules.tuning.objectives.profile import ProfileObjective
from mdm_schedules.tuning.objectives.teacher_forced import TeacherForcedObjective
from mdm_schedules.tuning.result import TuningResult
from mdm_schedules.tuning.scorebook import CheckedObjective
from mdm_schedules.tuning.selection import Candidate, Choice
from mdm_schedules.tuning.spaces import SPACES
from mdm_schedules.tuning.statistics import Comparison, compare
from mdm_schedules.tuning.trials import Trial
from mdm_schedules.tuning.tuner import tune

__all__ = [
    "SPACES",
    "Candidate",
    "CheckedObjective",
    "Choice",
    "Comparison",
    "Decoding",
    "FrontPoint",
    "GenerationObjective",
    "LikelihoodObjective",
    "Objective",
    "ProfileObjective",
    "Scores",
    "TeacherForcedObjective",
    "Trial",
    "TuningResult",
    "compare",
    "diversity",
    "tune",
]
