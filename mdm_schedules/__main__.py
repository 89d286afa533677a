"""`python -m mdm_schedules`: the command line."""

import sys

from mdm_schedules.cli import main

if __name__ == "__main__":
    sys.exit(main())
