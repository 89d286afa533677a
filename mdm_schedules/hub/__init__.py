"""Schedules as files in a folder or a Hub repository.

Only JSON and safetensors are read: no pickles, no code. A folder may hold a model beside the
files. Format 1.0:

schedule.json
    format_version  "1.0"; a newer major version is refused, fields of a newer minor one are kept
                    and written back.
    time            "generation": 0 is fully masked, 1 is clean text.
    name, params    as `get_schedule` takes them; a param may be a number, text, a list, another
                    {name, params}, or {"tensor": key}, a float64 vector in schedule.safetensors
                    (for more than 16 numbers).
    evaluation      optional: model, task, steps, metric, value; and if known standard_error,
                    baseline and baseline_standard_error (linear, same settings), model_revision,
                    nfe, sampler (the arguments of `generate`), date, library_version. See
                    `Evaluation`.
schedule.safetensors
    the vectors. Their names end in a hash of their content, so that a new schedule never shares one
    with an old one and a save killed between the two files leaves the old schedule readable.
schedules.json
    in a repository with several schedules: format_version, and schedules, a list of path (the
    folder, "" for the root), schedule (its text) and evaluation. `push_to_hub` keeps it.
"""

from mdm_schedules.hub.evaluation import Evaluation
from mdm_schedules.hub.push import push_record
from mdm_schedules.hub.record import SCHEDULE_FILE, TENSOR_FILE, Record, load_record, save_record
from mdm_schedules.hub.repository import find_record, is_hub_id, load
from mdm_schedules.hub.search import FoundSchedule, search_schedules
from mdm_schedules.hub.space import push_page

__all__ = [
    "SCHEDULE_FILE",
    "TENSOR_FILE",
    "Evaluation",
    "FoundSchedule",
    "Record",
    "find_record",
    "is_hub_id",
    "load",
    "load_record",
    "push_page",
    "push_record",
    "save_record",
    "search_schedules",
]
