"""``python -m dlslicer_geo``, which launchers such as torchrun start."""

import sys

from dlslicer_geo.cli import main

if __name__ == "__main__":
    sys.exit(main())
