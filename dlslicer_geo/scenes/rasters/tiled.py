"""Readable image and placement in, a cloud-optimised GeoTIFF with its mask and overviews out.

Three steps by strips of bounded size: the native pixels go into a tiled file with one mask; that file is warped to a
metric grid where it lies askew; GDAL's COG driver writes the result. Only a JPEG is decoded as a whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from dlslicer_geo import pixels
from dlslicer_geo.errors import SceneError
from dlslicer_geo.files import PROVENANCE_KEY
from dlslicer_geo.scenes.rasters import grid, raw
from dlslicer_geo.scenes.rasters.holes import Holes, strips
from dlslicer_geo.scenes.rasters.tally import search_of
from dlslicer_geo.scenes.values import Placement
from dlslicer_geo.types import APPROXIMATE, APPROXIMATE_NOTE, Reading

TOLERANCE_PX = 0.01
"""Error of position, in pixels, that warping may add by its shortcut."""

DECODED_BYTES = 2 << 30
"""Largest JPEG, in values, that is decoded as a whole."""

OVERVIEW_PX = 512
"""The smallest overview is no larger than this."""

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a tiled raster is written.

    Args:
        folder: an empty folder for temporary files and the result.
        block: edge of a block in pixels.
        note: what the file says of itself in its tags.
    """

    folder: Path
    block: int
    note: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Cover:
    """What of an image is not valid."""

    bands: tuple[int, ...]  # the bands in which it was looked for
    holes: Holes | None
    masked: bool  # whether any pixel is invalid


def write(path: str, placement: Placement, reading: Reading, layout: Layout) -> tuple[Path, Placement]:
    """Write an image as a tiled raster.

    Values, types, bands and palette stay; alpha, nodata, masks and holes become the mask. Where the image lies askew
    its palette becomes red, green and blue, values are interpolated bilinearly, and a pixel is valid where all the
    pixels it is made of are.

    Args:
        path: a file name or any GDAL path.
        placement: where the image lies.
        reading: bands in which holes are looked for, if they are.
        layout: how, and with which note; ``georef``, ``accuracy_m`` and ``holes_fraction`` are added to it.

    Returns:
        The file, in the layout's folder, and where it lies.

    Raises:
        SceneError: with the reason alone, if no pixel of it is valid.
        rasterio.errors.RasterioError: if it cannot be read or written.
    """
    decoded = _decoded(path, layout)
    with pixels.opened(decoded) as source:
        askew = grid.fits(placement, source.shape) is not None
        cover = _cover(source, reading)
        tags = _tags(source, cover, placement, layout)
        staged = _native(source, placement, cover, layout, askew)
        if askew:
            crs, transform, shape = grid.target(placement, source.shape)
            placement = replace(placement, crs=crs, transform=transform)
            staged = _warped(staged, placement, shape, layout)
    with pixels.opened(staged, mode="r+") as target:
        target.update_tags(**tags)
    return _cog(staged, layout), placement


def overviews(shape: tuple[int, int], block: int) -> int:
    """Number of overviews, each half as large as the one before, so that the last one is small.

    An image larger than a block has at least one: without it GDAL 3.10 fails on images with a mask.
    """
    return max(0, math.ceil(math.log2(max(shape) / min(OVERVIEW_PX, block))))


def _decoded(path: str, layout: Layout) -> str:
    """Path of the same pixels; those of a JPEG are decoded as Pillow, libjpeg-turbo and every browser do.

    The libjpeg inside rasterio's wheels spreads subsampled colours in another way: up to 30 of 255 apart, 29 % of
    the values of a photograph.
    """
    with pixels.opened(path) as source:
        size = source.width * source.height * source.count
        if source.driver == "PNG":
            _check_png(path)
        if source.driver != "JPEG" or size > DECODED_BYTES or not pixels.declares_all_valid(source):
            return path
        profile = {"driver": "GTiff", "height": source.height, "width": source.width, "count": source.count}
    copy, rows = layout.folder / "decoded.tif", layout.block
    # Pillow's own limit on sizes is one for the whole process; ours is in the header
    try:
        with raw.handle_of(path) as handle, JpegImageFile(handle) as image:
            if image.mode not in ("L", "RGB"):
                return path
            values = np.asarray(image)
    except SyntaxError as error:  # Pillow's word for a broken header
        raise SceneError(f"it cannot be read ({error})") from None
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    profile |= {"dtype": "uint8", "tiled": True, "blockxsize": rows, "blockysize": rows, "bigtiff": "if_safer"}
    with pixels.opened(copy, mode="w", **profile) as target:
        for window in strips(values.shape[1:], len(values), rows):
            target.write(values[(slice(None), *window.toslices())], window=window)
    return str(copy)


def _check_png(path: str) -> None:
    """Check the sums and the end of a PNG, because GDAL reads a truncated one without a word."""
    try:
        with raw.handle_of(path) as handle, PngImageFile(handle) as image:
            image.verify()
    except (SyntaxError, OSError, EOFError, ValueError) as error:
        raise SceneError(f"it cannot be read ({error}): it is cut off or damaged") from None


def _tags(source: Any, cover: _Cover, placement: Placement, layout: Layout) -> dict[str, str]:
    hole = cover.holes.pixels / (source.width * source.height) if cover.holes else 0.0
    note = {**layout.note, "georef": placement.georef, "accuracy_m": placement.accuracy_m, "holes_fraction": hole}
    dated = {name: text for name, text in source.tags().items() if name == "TIFFTAG_DATETIME"}
    vague = {"POSITION": APPROXIMATE_NOTE} if placement.georef in APPROXIMATE else {}
    return {PROVENANCE_KEY: json.dumps(note, sort_keys=True), **dated, **vague}


def _cover(source: Any, reading: Reading) -> _Cover:
    """Look through the whole image for holes and for anything that is invalid."""
    bands = tuple(dict.fromkeys(pixels.default_channels(source, reading.bands).bands))
    search = search_of(source, list(bands)) if reading.holes else None
    certain = pixels.declares_all_valid(source) and np.dtype(source.dtypes[0]).kind != "f"
    if search is None and certain:
        return _Cover(bands, None, False)
    number, masked = 0, False
    for window in strips(source.shape, max(3, len(bands))):
        values = pixels.seen(source, window, bands)
        valid = pixels.valid(source, values, window)
        masked |= valid is not None
        number += values[0].size if valid is None else int(valid.sum())
        if search is not None:
            search.add(values, valid, window)
    holes = search.found() if search is not None else None
    if number <= (holes.pixels if holes else 0):
        raise SceneError("it has no valid pixel")
    return _Cover(bands, holes, masked or holes is not None)


def _native(source: Any, placement: Placement, cover: _Cover, layout: Layout, askew: bool) -> Path:
    """The pixels as they are, tiled, with the mask inside, or beside it in ``mask.tif`` where they will be warped."""
    bands = _kept(source, cover)
    colours = pixels.palette(source, bands[0]) if len(bands) == 1 else None
    spread = colours is not None and askew
    known = [source.colorinterp[band - 1] for band in bands]
    kinds = _RGB if spread else [ColorInterp.undefined if kind == ColorInterp.alpha else kind for kind in known]
    profile = _profile(layout, placement, source.shape, kinds)
    profile["dtype"] = "uint8" if spread else source.dtypes[bands[0] - 1]
    path = layout.folder / "native.tif"
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"))  # not beside the file
        target = stack.enter_context(rasterio.open(path, "w", **profile))
        mask = (
            stack.enter_context(rasterio.open(layout.folder / "mask.tif", "w", **_plain(profile))) if askew else None
        )
        if colours is not None and not spread:
            target.write_colormap(1, source.colormap(bands[0]))
        elif not spread:
            target.colorinterp = kinds
        for window in strips(source.shape, len(kinds), layout.block):
            values = pixels.seen(source, window, bands) if spread else source.read(bands, window=window)
            target.write(values, window=window)
            if mask is not None:
                mask.write(_valid(source, window, cover).astype(np.uint8) * 255, 1, window=window)
            elif cover.masked:
                target.write_mask(_valid(source, window, cover), window=window)
    return path


def _kept(source: Any, cover: _Cover) -> list[int]:
    """Bands that are written: all but alpha, which becomes the mask, unless the bands in use would change numbers."""
    plain, last = pixels.plain_bands(source), max(cover.bands)
    return plain if plain[:last] == list(range(1, last + 1)) else list(source.indexes)


def _valid(source: Any, window: Window, cover: _Cover) -> NDArray[np.bool_]:
    values = pixels.seen(source, window, cover.bands)
    valid = pixels.valid(source, values, window)
    if valid is None:
        valid = np.ones(values.shape[1:], bool)
    return valid if cover.holes is None else valid & ~cover.holes.mask(values, window)


def _warped(native: Path, placement: Placement, shape: tuple[int, int], layout: Layout) -> Path:
    """The same on a metric grid, with the mask inside."""
    onto = {"crs": placement.crs, "transform": placement.transform, "height": shape[0], "width": shape[1]}
    onto |= {"resampling": Resampling.bilinear, "tolerance": TOLERANCE_PX}
    path = layout.folder / "warped.tif"
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"))
        source, mask = (stack.enter_context(pixels.opened(name)) for name in (native, native.with_name("mask.tif")))
        profile = _profile(layout, placement, shape, source.colorinterp) | {"dtype": source.dtypes[0]}
        # apart from its mask, because GDAL takes four times as long over an image that has one
        colours, valid = (stack.enter_context(WarpedVRT(one, **onto)) for one in (source, mask))
        target = stack.enter_context(rasterio.open(path, "w", **profile))
        target.colorinterp = source.colorinterp
        for window in strips(shape, source.count, layout.block):
            target.write(colours.read(window=window), window=window)
            target.write_mask(valid.read(1, window=window) == 255, window=window)
    return path


def _cog(staged: Path, layout: Layout) -> Path:
    """The result, uncompressed.

    Random 480 px windows of a photograph, per second of one core: 1700 uncompressed (93 MB a scene), 380 with zstd
    (74 MB), 165 with deflate (71 MB), 110 with LZW (79 MB), 8 from the JPG (10 MB) itself. It is also what every GDAL
    reads, and what every build of it writes in the same bytes.
    """
    path = layout.folder / "cog.tif"
    with pixels.opened(staged) as source:
        levels = overviews(source.shape, layout.block)
        smooth = ColorInterp.palette not in source.colorinterp
    options = {
        "BLOCKSIZE": layout.block,
        "COMPRESS": "NONE",
        "OVERVIEW_COUNT": levels,
        "OVERVIEW_RESAMPLING": "AVERAGE" if smooth else "NEAREST",
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": 1,  # scenes are written at the same time, not parts of one
    }
    try:
        rasterio.shutil.copy(str(staged), str(path), driver="COG", **options)
    except (CPLE_BaseError, SystemError) as error:  # GDAL's own errors come bare from here
        raise RasterioIOError(f"the tiled raster cannot be written: {error}") from None
    return path


def _profile(layout: Layout, placement: Placement, shape: tuple[int, int], kinds: Sequence[Any]) -> dict[str, Any]:
    """Creation options of a tiled GeoTIFF with bands of these colours, without its type."""
    looks = {_RGB: "rgb", (ColorInterp.palette,): "palette"}
    return {
        "driver": "GTiff",
        "height": shape[0],
        "width": shape[1],
        "count": len(kinds),
        "crs": placement.crs,
        "transform": placement.transform,
        "tiled": True,
        "blockxsize": layout.block,
        "blockysize": layout.block,
        "photometric": looks.get(tuple(kinds[:3]), "minisblack"),
        "alpha": "no",  # a fourth band is not taken for one
        "bigtiff": "if_safer",
    }


def _plain(profile: dict[str, Any]) -> dict[str, Any]:
    """The same for one band of uint8."""
    return profile | {"count": 1, "dtype": "uint8", "photometric": "minisblack", "compress": "deflate", "zlevel": 1}
