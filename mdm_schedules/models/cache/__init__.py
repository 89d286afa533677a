"""Key-value caches: what a pass need not compute again, for every model that has attention.

`windows.py` says which columns a pass computes, `store.py` holds keys and values, `cache.py` ties
both to a model's adapter, `attention.py` is the hook for transformers' encoders, `size.py` says
what a store takes.
"""

from mdm_schedules.models.cache.cache import CacheUse, PassCache
from mdm_schedules.models.cache.size import cache_size, room_for
from mdm_schedules.models.cache.store import KVStore
from mdm_schedules.models.cache.windows import CacheSettings, Mode, Window, Windows

__all__ = [
    "CacheSettings",
    "CacheUse",
    "KVStore",
    "Mode",
    "PassCache",
    "Window",
    "Windows",
    "cache_size",
    "room_for",
]
