"""What lm-eval's results hold of the model that was run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mdm_schedules._version import __version__
from mdm_schedules.sampling.generation import own_schedule
from mdm_schedules.schedules import Schedule

if TYPE_CHECKING:
    from mdm_schedules.integrations.lm_eval.model import MaskedDiffusionLM


def model_info(lm: MaskedDiffusionLM) -> dict[str, Any]:
    """All settings, with the mean number of forward passes per answer."""
    schedule = lm.options.get("schedule")
    schedule = own_schedule(lm.model) if schedule is None else schedule
    own = ("batch_size", "max_length", "seed", "mc_num", "check_greedy", "add_bos_token")
    return {
        "model_args": {
            "pretrained": str(getattr(lm.model, "name_or_path", type(lm.model).__name__)),
            **lm.options,
            "schedule": schedule.spec if isinstance(schedule, Schedule) else str(schedule),
            **{name: getattr(lm, name) for name in own},
        },
        "model_dtype": str(getattr(lm.model, "dtype", None)),
        "mdm_schedules_version": __version__,
        "forward_passes_per_answer": sum(lm.passes) / len(lm.passes) if lm.passes else None,
        "truncated": dict(lm.truncated),
    }
