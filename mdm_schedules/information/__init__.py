"""The cost of a plan before sampling: the information profile, the best plan, the best Beta."""

from mdm_schedules.information.calibration import Calibration, CalibrationRange
from mdm_schedules.information.estimate import Measurement
from mdm_schedules.information.exact import (
    Divergence,
    ancestral_divergence,
    plan_divergence,
)
from mdm_schedules.information.profile import InformationProfile

__all__ = [
    "Calibration",
    "CalibrationRange",
    "Divergence",
    "InformationProfile",
    "Measurement",
    "ancestral_divergence",
    "plan_divergence",
]
