from vllm_dllm_plugin.remasking.base import RemaskingPolicy, RemaskStepResult

__all__ = ["RemaskStepResult", "RemaskingPolicy"]
