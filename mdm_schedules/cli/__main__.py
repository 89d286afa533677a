"""`python -m mdm_schedules.cli`, the same as `python -m mdm_schedules`."""

import sys

from mdm_schedules.cli import main

if __name__ == "__main__":
    sys.exit(main())
