"""`model.generate(custom_generate="<this repository>", trust_remote_code=True, steps=16, ...)` with
mdm-schedules.

Upload the folder that holds `custom_generate/` to the Hub as it is.
"""

import mdm_schedules


def generate(model, inputs=None, input_ids=None, **kwargs):
    """Hand everything that was given to `mdm_schedules.generate`; transformers passes what was not
    as None.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    return mdm_schedules.generate(model, inputs if input_ids is None else input_ids, **given)
