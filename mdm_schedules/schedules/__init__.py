"""Mask schedules: what alpha(t) is.

A new family is a module here and an entry point in pyproject.toml.
"""

from mdm_schedules.schedules.base import Schedule, schedules
from mdm_schedules.schedules.beta import Beta
from mdm_schedules.schedules.closed_forms import (
    Cosine,
    Geometric,
    Linear,
    LogLinear,
    Polynomial,
    Sine,
    SquaredSine,
)
from mdm_schedules.schedules.energy_optimal import EnergyOptimal
from mdm_schedules.schedules.shifted import Shifted
from mdm_schedules.schedules.tabulated import Tabulated

__all__ = [
    "Beta",
    "Cosine",
    "EnergyOptimal",
    "Geometric",
    "Linear",
    "LogLinear",
    "Polynomial",
    "Schedule",
    "Shifted",
    "Sine",
    "SquaredSine",
    "Tabulated",
    "schedules",
]
