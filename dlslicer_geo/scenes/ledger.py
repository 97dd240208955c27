"""What a survey goes by, the images on their way to become scenes, and the files that are none."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dlslicer_geo.errors import SceneError
from dlslicer_geo.scenes.sources import redact
from dlslicer_geo.scenes.values import Found, Header, Placement
from dlslicer_geo.types import ChipGrid, Reading

logger = logging.getLogger(__name__)

Root = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a survey goes by.

    Args:
        reading: how images become scenes.
        pattern: as :func:`dlslicer_geo.scan` takes it.
        cities: list of cities, None for the packaged one where one is needed.
        on_bad: ``raise`` or ``skip``.
        prepared: folder of prepared rasters, None where none may be written.
        grid: chips that will be cut: tiles of prepared rasters fit them.
    """

    reading: Reading
    pattern: str | None
    cities: Root | None = None
    on_bad: Literal["raise", "skip"] = "raise"
    prepared: Path | None = None
    grid: ChipGrid = field(default_factory=ChipGrid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image on its way to become a scene.

    Args:
        found: the file.
        scene_id: unique.
        names: ``city``, ``city_name``, ``site``, ``acquired``.
        header: what the file says of itself.
        placement: where it lies, None as long as nothing tells.
        why: why it must be prepared, None where it can be read as it is.
    """

    found: Found
    scene_id: str
    names: Mapping[str, str | None]
    header: Header
    placement: Placement | None
    why: str | None = None


class Ledger:
    """Files that are no scenes, and why: ``strangers`` were never meant to be one, ``bad`` ones were."""

    def __init__(self) -> None:
        self.strangers: list[dict[str, str]] = []
        self.bad: list[dict[str, str]] = []

    def reject(self, source: str, error: SceneError) -> None:
        """Note an image that cannot be a scene."""
        self._note(self.bad, source, str(error))

    def ignore(self, source: str, reason: str) -> None:
        """Note a file that was never meant to be one."""
        self._note(self.strangers, source, reason)

    def _note(self, where: list[dict[str, str]], source: str, reason: str) -> None:
        reason = redact(reason)
        logger.warning("%s is not a scene: %s", source, reason)
        where.append({"path": source, "reason": reason})

    def check(self, rules: Rules, number: int) -> None:
        """Raise the first bad image of ``number`` files, where the rules say so.

        Raises:
            SceneError: naming it.
        """
        if self.bad and rules.on_bad == "raise":
            first = self.bad[0]
            raise SceneError(
                f"{first['path']} cannot be a scene: {first['reason']} ({len(self.bad)} of {number} files are bad): "
                "mend or remove them, or leave them out with --data.on_bad skip"
            )

    def all(self) -> list[dict[str, str]]:
        """Both, in the order of their paths."""
        return sorted([*self.bad, *self.strangers], key=lambda entry: entry["path"])
