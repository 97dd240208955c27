"""Saliency of chips in, one COG of blended raw relevance per scene and city out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo import files
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import styles
from dlslicer_geo.layers.blend import Lattice, blend
from dlslicer_geo.layers.rasters import Raster, file_name, percentiles, write_cog
from dlslicer_geo.types import APPROXIMATE_NOTE, Layer, Progress, Saliency, quiet

log = logging.getLogger(__name__)

LIMIT_PERCENTILE = 99
"""The colour scale ends at this percentile of |S|: a few extreme cells would leave the rest of a map pale."""


def write_saliency(
    why: Saliency, out: str | Path, *, provenance: Mapping[str, str] | None = None, progress: Progress = quiet
) -> list[Layer]:
    """Write ``out/saliency/<scene>.<city>.<method>.tif``, a COG per scene and explained city, and its QGIS style.

    The file is float32 in the scene's own CRS, NaN where there is no chip: one band of blended raw relevance (signed,
    never rescaled) for each layer, shallow to deep, and ``coverage``, the number of chips over a cell. Its tags hold
    the method, the city, the chips' window and stride, the lattice, percentiles of every band, the limits of the
    colour scale and every note of ``why``.

    Args:
        why: raw relevance of chips with their windows and grids.
        out: the folder for GIS files.
        provenance: names and values for the tag ``dlslicer_geo``.
        progress: shows how far it is.

    Returns:
        a layer per file, in the order of scene and city; ``limits`` are symmetric, the 99th percentile of |S| of
        the deepest layer.

    Raises:
        LayerError: if the chips of one scene differ in size or stride.
    """
    groups = list(_groups(why))
    layers = []
    for at in progress(groups, total=len(groups), label="saliency"):
        layers.append(_write(why, at, Path(out) / "saliency", provenance or {}))
    log.info("wrote %d saliency files of %d chips", len(layers), len(why))
    return layers


def _groups(why: Saliency) -> Iterator[NDArray[np.int64]]:
    """Chip positions of every scene and city, sorted by both."""
    if not len(why):
        return
    scene, city = np.array(why.scene_id), np.array(why.city)
    order = np.lexsort((why.chip_id, city, scene))
    new = (scene[order][1:] != scene[order][:-1]) | (city[order][1:] != city[order][:-1])
    yield from np.split(order, np.flatnonzero(new) + 1)


def _write(why: Saliency, at: NDArray[np.int64], folder: Path, provenance: Mapping[str, str]) -> Layer:
    scene, city = why.scene_id[at[0]], why.city[at[0]]
    windows, stride = why.windows[at], _stride(why, at)
    finest = why.maps[why.layers[0]].shape
    lattice = Lattice.over(windows, stride, (finest[1], finest[2]))
    blended = [blend(why.maps[name][at], windows, lattice) for name in why.layers]
    bands = {name: values for name, (values, _) in zip(why.layers, blended, strict=True)}
    limit = _limit(bands[why.layers[-1]])
    tags = _tags(why, at, lattice) | {f"PERCENTILES_{name}": percentiles(values) for name, values in bands.items()}
    tags |= {
        "LIMITS": f"{-limit:.9g} {limit:.9g}",
        files.PROVENANCE_KEY: json.dumps(dict(provenance), sort_keys=True),
    }
    raster = Raster(
        values=np.stack([*bands.values(), blended[0][1].astype(np.float32)]),
        crs=str(why.grids[scene].crs),
        transform=lattice.transform(why.grids[scene].affine),
        nodata=float("nan"),
        names=[*bands, "coverage"],
        tags=tags,
    )
    path = folder / f"{file_name(scene, city, why.method)}.tif"
    write_cog(path, raster, qml=styles.ramp_qml(styles.diverging(limit), band=len(bands)))
    return Layer(
        kind="saliency",
        path=path,
        title=f"{scene}: why {city}",
        group=city,
        limits=(-limit, limit),
        approximate=scene in why.approximate,
        note=f"{why.method}, {why.layers[-1]}: red speaks for the city, blue against it; raw values, "
        "every scene and city has its own scale.",
    )


def _stride(why: Saliency, at: NDArray[np.int64]) -> int:
    strides, sizes = np.unique(why.stride[at]), np.unique(why.windows[at, 2:], axis=0)
    if len(strides) > 1 or len(sizes) > 1:
        raise LayerError(
            f"scene {why.scene_id[at[0]]} has chips of {len(sizes)} sizes and {len(strides)} strides: "
            "explain chips of one cut"
        )
    return int(strides[0])


def _limit(values: NDArray[np.float32]) -> float:
    """The end of the symmetric colour scale; 1 for a map without any relevance, which has no scale."""
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.percentile(finite, LIMIT_PERCENTILE)) if finite.size else 0.0
    return limit if limit > 0 else 1.0


def _tags(why: Saliency, at: NDArray[np.int64], lattice: Lattice) -> dict[str, str]:
    _, _, height, width = (int(v) for v in why.windows[at[0]])
    (rows, cols), (down, across) = lattice.cell, lattice.per_stride
    tags: dict[str, Any] = {
        "METHOD": why.method,
        "SCENE": why.scene_id[at[0]],
        "CITY": why.city[at[0]],
        "LAYERS": " ".join(why.layers),
        "CHIPS": len(at),
        "CHIP_WINDOW_PX": f"{height} x {width}",
        "STRIDE_PX": int(why.stride[at[0]]),
        "INPUT_SIZE_PX": why.input_size,
        "LATTICE": f"{down} x {across} cells per stride, cell {rows:.6g} x {cols:.6g} px, "
        f"first cell {lattice.origin[0]} {lattice.origin[1]} from pixel 0 0",
        "BLENDING": "bilinear, half-sample Hann weights, divided by their sum",
    }
    if why.scene_id[at[0]] in why.approximate:
        tags["POSITION"] = APPROXIMATE_NOTE
    notes = {f"NOTE_{name.upper()}": text for name, text in why.notes.items()}
    return {name: str(value) for name, value in {**tags, **notes}.items()}
