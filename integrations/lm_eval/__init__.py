"""lm-eval: masked diffusion models as `mdm_schedules`, and its tasks as tuning objectives.

lm-eval discovers no plugins, so import this module before asking it for the model, or run
`mdm-schedules eval`.
"""

from __future__ import annotations

from mdm_schedules.checks import missing_extra

try:
    # fills lm-eval's registry, which must come before ours is added
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry
except ImportError as error:
    if (error.name or "").split(".")[0] != "lm_eval":
        raise
    raise missing_extra("lm-eval", "eval") from None

from mdm_schedules.integrations.lm_eval.model import MaskedDiffusionLM
from mdm_schedules.integrations.lm_eval.objective import LMEvalObjective, lm_eval_objective
from mdm_schedules.integrations.lm_eval.processes import joined_processes
from mdm_schedules.integrations.lm_eval.tasks import load_tasks

if "mdm_schedules" not in model_registry:  # this module may be imported again
    model_registry.register("mdm_schedules", target=MaskedDiffusionLM)

__all__ = [
    "LMEvalObjective",
    "MaskedDiffusionLM",
    "joined_processes",
    "lm_eval_objective",
    "load_tasks",
]
