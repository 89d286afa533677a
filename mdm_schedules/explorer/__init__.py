"""One HTML page to move a schedule's sliders in, and to play recorded runs; it needs no network.

`page.py` puts it together from the files in `page/`, whose `math.js` computes what the package
computes in Python (a test compares the two in a browser); `recording.py` says what a run is.
"""

from mdm_schedules.explorer.page import Table, explore_page
from mdm_schedules.explorer.recording import Recording, Run, record

__all__ = ["Recording", "Run", "Table", "explore_page", "record"]
