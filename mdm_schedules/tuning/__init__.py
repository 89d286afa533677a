"""Find the schedule for a model, a task and a number of steps, without training: `tune`, and
objectives for it.

A new objective is a function schedule -> score; what else it may have is told in `Asked`.
"""

from mdm_schedules.tuning.choose import Candidate, Choice
from mdm_schedules.tuning.compare import Comparison, compare
from mdm_schedules.tuning.generated import GenerationObjective
from mdm_schedules.tuning.judged import LikelihoodObjective, diversity
from mdm_schedules.tuning.predicted import ProfileObjective
from mdm_schedules.tuning.result import Trial, TuningResult
from mdm_schedules.tuning.scores import Asked, Scores
from mdm_schedules.tuning.teacher import TeacherForcedObjective
from mdm_schedules.tuning.tuner import tune

__all__ = [
    "Asked",
    "Candidate",
    "Choice",
    "Comparison",
    "GenerationObjective",
    "LikelihoodObjective",
    "ProfileObjective",
    "Scores",
    "TeacherForcedObjective",
    "Trial",
    "TuningResult",
    "compare",
    "diversity",
    "tune",
]
