"""SGLang's diffusion decoding with any mask schedule: the algorithm `MDMSchedule`.

    mdm-schedules export sglang "beta(a=0.9, b=0.3)" --steps 8 --output mdm.yaml
    sglang serve --model-path inclusionAI/LLaDA2.0-mini --trust-remote-code \\
        --dllm-algorithm MDMSchedule --dllm-algorithm-config mdm.yaml

SGLang calls `register` in each of its processes, by the entry point `sglang.srt.plugins`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from mdm_schedules._watch import after_import
from mdm_schedules.errors import MissingExtraError

ALGORITHMS = "sglang.srt.dllm.algorithm"
NAME = "MDMSchedule"
VERSIONS = "0.5.23"


def register() -> None:
    """Add `MDMSchedule` to SGLang's algorithms as soon as SGLang loads them.

    Nothing of SGLang is imported for it, so that a server without diffusion pays nothing.

    Raises:
        MissingExtraError: SGLang is not installed.
    """
    if "sglang" not in sys.modules and importlib.util.find_spec("sglang") is None:
        raise MissingExtraError(
            "SGLang is not installed; run: pip install 'mdm-schedules[sglang]' (known to work: "
            f"sglang {VERSIONS})"
        )
    after_import(ALGORITHMS, _add)


def _add() -> None:
    try:
        from sglang.srt.dllm.algorithm import algo_name_to_cls
        from sglang.srt.dllm.algorithm.base import DllmAlgorithm
    except ImportError as error:
        # its own algorithms must still load
        logging.getLogger("mdm_schedules").warning(
            f"{NAME} is not registered: this SGLang has another interface ({error}); known to "
            f"work: sglang {VERSIONS}"
        )
        return
    from mdm_schedules.integrations.sglang.algorithm import ScheduledBlocks

    algo_name_to_cls[NAME] = type(NAME, (ScheduledBlocks, DllmAlgorithm), {"__doc__": __doc__})


def settings_file(settings: Mapping[str, Any]) -> str:
    """Settings of `MDMSchedule` as YAML, for `--dllm-algorithm-config`.

    Args:
        settings: names of `mdm_schedules.integrations.engines.KEYS` to text and numbers; None is
            left out.
    """
    # a scalar of JSON is one of YAML
    rows = (f"{key}: {json.dumps(value)}" for key, value in settings.items() if value is not None)
    return "\n".join(rows) + "\n"
