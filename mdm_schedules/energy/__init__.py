"""The energies that masked diffusion minimises: `functionals` on top of `integral`."""

from mdm_schedules.energy.functionals import (
    conditional_kinetic_energy,
    discrete_energy,
    energy_excess,
    geodesic_energy,
    kinetic_energy,
    token_energy,
)
from mdm_schedules.energy.integral import Energy

__all__ = [
    "Energy",
    "conditional_kinetic_energy",
    "discrete_energy",
    "energy_excess",
    "geodesic_energy",
    "kinetic_energy",
    "token_energy",
]
