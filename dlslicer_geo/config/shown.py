"""What a run shows: the map, and what a GIS and a catalogue find; no input, no output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dlslicer_geo.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MapConfig:
    """The map.

    Args:
        title: what stands above it.
        imagery: show the imagery of the scenes that are explained.
        budget_mb: size of map.html; above it chips, saliency and imagery go to PMTiles beside it, in the folder map.
        basemaps: what the reader may switch on where there is a network: osm, satellite; an empty list offers none.
    """

    title: str = "Which city is this, and what gave it away"
    imagery: bool = True
    budget_mb: float = 25.0
    basemaps: tuple[Literal["osm", "satellite"], ...] = ("osm", "satellite")

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if the budget is below 1 MB.
        """
        if not self.budget_mb >= 1:
            raise ConfigError(f"map.budget_mb is {self.budget_mb}: give 1 or more megabytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogConfig:
    """What a GIS and a catalogue find.

    Args:
        flatgeobuf: also write gis/predictions.fgb, which is read by range from a web server.
    """

    flatgeobuf: bool = False
