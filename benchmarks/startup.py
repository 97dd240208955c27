"""How long the command line takes to say what it can do, against an import of TorchGeo's trainers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rounds import Figure, Options, Ratio, Theme, in_turn

HELP, TRAINERS, BARE = "dlslicer-geo --help", 'python -c "import torchgeo.trainers"', 'python -c ""'


def startup(folder: Path, options: Options) -> Theme:
    """Wall clock of whole processes, in turn, everything in the page cache."""
    python = sys.executable
    commands = {
        HELP: [str(Path(python).with_name("dlslicer-geo")), "--help"],
        TRAINERS: [python, "-W", "ignore", "-c", "import torchgeo.trainers"],
        BARE: [python, "-c", ""],
    }

    def run(command: list[str]) -> int:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        return 1

    ways = {name: lambda command=command: run(command) for name, command in commands.items()}
    spent = in_turn(ways, options.rounds, time.perf_counter)
    figures = {name: Figure(name=name, unit="s", values=tuple(seconds)) for name, seconds in spent.items()}
    return Theme(
        title="Start of the command line",
        figures=list(figures.values()),
        ratios=[Ratio(of=figures[HELP], to=figures[TRAINERS], most=0.15), Ratio(of=figures[HELP], to=figures[BARE])],
        notes=["Wall clock of processes of their own, everything in the page cache."],
    )
