"""A configuration in, its paths checked and fit to be written down out."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from dlslicer_geo.config import BESIDE, Config, is_address
from dlslicer_geo.config.devices import check_compute
from dlslicer_geo.errors import ConfigError
from dlslicer_geo.pipeline.mirror import root_of


def check_paths(config: Config) -> None:
    """Find out before any work is done that an input is missing, or where work is to be done.

    Raises:
        ConfigError: naming the key and the path or the value.
    """
    check_compute(config.compute)
    data = config.data
    beside = [(f"{section}.{key}", getattr(getattr(config, section), key)) for section, key in BESIDE]
    own = (("data.root", data.root), ("data.cities", data.cities), ("data.sidecar", data.sidecar))
    for key, value in (*own, *beside):
        if value and not is_address(value) and not _exists(value):
            raise ConfigError(f"{key} is {value}, which does not exist: give the path of what is there")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # such as a name that is too long
        return False


SECRET = re.compile(r"token|password|passwd|secret|api_?key|credential", re.IGNORECASE)
"""Names of values that are never written."""


def clean(value: Any, name: str = "") -> Any:
    """A configuration without passwords, tokens and signed addresses."""
    from dlslicer_geo.scenes.sources import redact

    if isinstance(value, dict):
        return {key: clean(part, str(key)) for key, part in value.items()}
    if isinstance(value, list):
        return [clean(part, name) for part in value]
    if not isinstance(value, str):
        return value
    return "***" if SECRET.search(name) else redact(value) if "://" in value or "/vsi" in value else value


def relative_to(folder: Path, path: str) -> str:
    """A path as seen from a run folder, so that both can be moved together; addresses stay as they are.

    A run on object storage lies in another folder on each machine: what is not in it keeps its full path.
    """
    if is_address(path):
        return path
    place, own = folder.resolve(), Path(path).absolute()
    root = root_of(place)
    return str(own) if root and not own.is_relative_to(root) else os.path.relpath(path, place)
