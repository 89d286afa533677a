"""`python -m mdm_schedules.cli`, as launchers start it."""

import sys

from mdm_schedules.cli import main

if __name__ == "__main__":
    sys.exit(main())
