"""One small adapter per model family."""

from mdm_schedules.integrations.models.base import ModelAdapter, get_adapter, models

__all__ = ["ModelAdapter", "get_adapter", "models"]
