"""Lets `model.generate(custom_generate=...)` of transformers run mdm-schedules.

    model.generate(custom_generate="<this repository>", trust_remote_code=True, steps=16, ...)

Upload the folder that holds `custom_generate/` to the Hub as it is.
"""

import mdm_schedules


def generate(model, inputs=None, input_ids=None, **kwargs):
    """Pass every given argument on to `mdm_schedules.generate`.

    Transformers passes arguments that were not given as None.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    return mdm_schedules.generate(model, inputs if input_ids is None else input_ids, **given)
