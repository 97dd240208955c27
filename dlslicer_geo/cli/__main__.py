"""``python -m dlslicer_geo.cli``."""

import sys

from dlslicer_geo.cli import main

if __name__ == "__main__":
    sys.exit(main())
