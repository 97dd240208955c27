"""Command-line words in, what they ask for or one sentence about what is wrong with them out."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NoReturn

from dlslicer_geo.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Raises one sentence instead of printing usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Refuse the words."""
        raise ConfigError(f"{message}; see {self.prog} --help")

    def add_scheduler(self) -> None:
        """Take ``--scheduler``, which is short for ``--compute.scheduler``."""
        said = "Dask scheduler (tcp://host:port) whose workers prepare scenes and write layers"
        self.add_argument("--scheduler", metavar="ADDRESS", help=said)

    def parse_with_overrides(self, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """The words of this parser, and those that are keys of the experiment."""
        known, overrides = self.parse_known_args(words)
        scheduler = getattr(known, "scheduler", None)
        return known, ["--compute.scheduler", scheduler, *overrides] if scheduler else overrides


def name_of(given: str) -> str:
    """Name of the run folder of an experiment or of images, without anything an address may carry."""
    from dlslicer_geo.scenes.sources import redact

    path = Path(redact(given)).absolute()
    return re.sub(r"[^\w.-]", "-", path.parent.name if path.stem == "config" else path.stem) or "scenes"
