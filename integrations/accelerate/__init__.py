"""Many prompts on all processes of a job that accelerate runs: `generate_distributed`."""

from mdm_schedules.integrations.accelerate.generation import DistributedOutput, generate_distributed

__all__ = ["DistributedOutput", "generate_distributed"]
