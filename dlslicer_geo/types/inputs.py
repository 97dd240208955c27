"""What a run starts from: images, how they are read, and scenes; no input, no output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from dlslicer_geo.errors import ConfigError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

T = TypeVar("T")

Pair = tuple[float, float]

APPROXIMATE = ("approximate", "exif")
"""Kinds of ``georef`` from which no distance, overlap or adjacency may be claimed."""

APPROXIMATE_NOTE = "approximate: somewhere in its city; no distance, overlap or adjacency follows from it"
"""What every output says of scenes of these kinds."""


class Progress(Protocol):
    """Wraps an iterable of known length so that somebody watching sees how far it is."""

    def __call__(self, items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        """Yield every item of ``items`` unchanged."""
        ...


def quiet(items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
    """The :class:`Progress` that shows nothing."""
    yield from items


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """What is shown as red, green and blue, and which values are black and white.

    Args:
        bands: three band numbers from 1; a band may stand for several colours.
        low: three values that become 0; None for uint8 imagery that is taken as it is.
        high: three values that become 255, None together with ``low``.
    """

    bands: tuple[int, int, int] = (1, 2, 3)
    low: tuple[float, float, float] | None = None
    high: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How images become scenes: everything ``scan`` must be told that images do not say themselves.

    Args:
        source: ``images`` of any kind, or ``dl-slicer``: the published data set in its folders, where cities and
            sites are read from the folders and the 45 cities are known.
        crs: CRS of world files that come without one, as ``EPSG:32643`` or WKT.
        sidecar: table of positions (CSV, GeoJSON, GeoPackage, KML or KMZ); None takes the tables named ``scenes.*``
            below the root and those named like an image.
        gsd_m: ground metres per pixel of images that only have a centre (EXIF, approximate placement).
        asset: key of the asset that is the image of a STAC item; None finds it by role.
        bands: band numbers from 1 shown as red, green and blue; None takes what the file says, or the first three.
        scaling: how pixels that are not uint8 become 0 to 255: ``auto`` stretches between the 2nd and the 98th
            percentile of each band over all scenes with the same type and number of bands, ``[low, high]`` between
            two values, three such pairs between two values for each of red, green and blue.
        holes: whether large black or white areas that no mask declares count as invalid.
        prepare: ``auto`` writes a scene anew as tiled raster where it cannot be read by window as it is (JPEG, a
            rotated grid, a position that is not in the file ...), ``all`` always, ``never`` refuses instead.
    """

    source: Literal["images", "dl-slicer"] = "images"
    crs: str | None = None
    sidecar: str | None = None
    gsd_m: float | None = None
    asset: str | None = None
    bands: tuple[int, int, int] | None = None
    scaling: Literal["auto"] | tuple[float, float] | tuple[Pair, Pair, Pair] = "auto"
    holes: bool = True
    prepare: Literal["auto", "all", "never"] = "auto"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if one of them is out of range.
        """
        if self.gsd_m is not None and not 0 < self.gsd_m < float("inf"):
            raise ConfigError(f"data.gsd_m is {self.gsd_m}: give ground metres per pixel, above 0")
        if self.bands is not None and (len(self.bands) != 3 or min(self.bands) < 1):
            raise ConfigError(f"data.bands are {list(self.bands)}: give three band numbers, counted from 1")
        if any(not low < high for low, high in self.stretches() or ()):
            raise ConfigError(f"data.scaling is {list(self.scaling)}: give auto, or [low, high] with low below high")

    def stretches(self) -> tuple[Pair, Pair, Pair] | None:
        """The values that become 0 and 255 of red, green and blue; None where they are to be found out."""
        if self.scaling == "auto":
            return None
        if len(self.scaling) == 2:
            return self.scaling, self.scaling, self.scaling
        return self.scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Where work is done. What comes out does not depend on it, so it makes nothing be done again.

    Several devices or machines are the launcher's business: ``torchrun`` and SLURM start one process for each, which
    Lightning finds by their environment.

    Args:
        accelerator: Lightning's name for the kind of device: auto, cpu, gpu, mps.
        strategy: Lightning's strategy for several processes; auto takes ddp.
        readers: processes that read chips for one device; null takes none for a CPU, up to 8 otherwise.
        processes: processes that prepare scenes and write layers; 0 takes one for each core.
        scheduler: address of a Dask scheduler (tcp://host:port) whose workers do that instead.
    """

    accelerator: str = "auto"
    strategy: str = "auto"
    readers: int | None = None
    processes: int = 0
    scheduler: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if one of them is below 0.
        """
        for key in ("readers", "processes"):
            if (getattr(self, key) or 0) < 0:
                raise ConfigError(f"compute.{key} is {getattr(self, key)}: give 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One georeferenced image.

    Args:
        scene_id: unique, safe in a file name.
        city: city code, None for an image of an unknown place.
        city_name: the city in words, None like ``city``.
        site: the part of a city the scene belongs to; the same ground at another date has the same site.
        path: what is read (a file name or any GDAL path).
        source: address of the raw image, which is another one when the scene was prepared.
        grid: the native pixel grid (shape, transform, CRS).
        bands: number of bands.
        dtype: numpy name of the pixel type.
        nodata: declared nodata value, None when there is none.
        gsd_m: ground metres per pixel, measured on the ellipsoid at the scene's centre.
        acquired: ISO 8601 year, month or day, None when unknown.
        georef: where the position comes from (``geotiff``, ``world-file``, ``sidecar``, ``gcp``, ``tile-name``,
            ``exif``, ``approximate``).
        accuracy_m: accuracy of the position in metres, None when unknown.
        sha256: hash of the raw image.
        valid_fraction: share of the pixels that are valid, 0 to 1.
        channels: what is shown as red, green and blue.
    """

    scene_id: str
    city: str | None
    city_name: str | None
    site: str
    path: str
    source: str
    grid: GeoBox
    bands: int
    dtype: str
    nodata: float | None
    gsd_m: float
    acquired: str | None
    georef: str
    accuracy_m: float | None
    sha256: str
    valid_fraction: float
    channels: Channels

    @property
    def approximate(self) -> bool:
        """Whether the position says no more than the city, so that no distance follows from it."""
        return self.georef in APPROXIMATE

    @classmethod
    def from_record(cls, record: Mapping[Any, Any]) -> Scene:
        """One row of the scene table (``table.to_dict("records")``) as a value."""
        from odc.geo.geobox import GeoBox

        grid = GeoBox((int(record["height"]), int(record["width"])), _affine(record["transform"]), str(record["crs"]))
        return cls(
            scene_id=str(record["scene_id"]),
            city=_text(record["city"]),
            city_name=_text(record["city_name"]),
            site=str(record["site"]),
            path=str(record["path"]),
            source=str(record["source"]),
            grid=grid,
            bands=int(record["bands"]),
            dtype=str(record["dtype"]),
            nodata=_number(record["nodata"]),
            gsd_m=float(record["gsd_m"]),
            acquired=_text(record["acquired"]),
            georef=str(record["georef"]),
            accuracy_m=_number(record["accuracy_m"]),
            sha256=str(record["sha256"]),
            valid_fraction=float(record["valid_fraction"]),
            channels=channels_of(record),
        )


def channels_of(record: Mapping[Any, Any]) -> Channels:
    """The columns ``channels``, ``low`` and ``high`` of one row of the scene table as a value."""
    red, green, blue = (int(band) for band in record["channels"])
    return Channels(bands=(red, green, blue), low=_three(record["low"]), high=_three(record["high"]))


def _three(values: Any) -> tuple[float, float, float] | None:
    if values is None or isinstance(values, float):  # a column without any list comes back from disk as NaN
        return None
    one, two, three = (float(value) for value in values)
    return one, two, three


def _affine(values: Any) -> Any:
    from affine import Affine

    return Affine(*(float(v) for v in values))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
