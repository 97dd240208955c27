"""Saliency of chips in, one COG of blended raw relevance per scene and city out."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

from dlslicer_geo import files
from dlslicer_geo.layers import styles
from dlslicer_geo.layers.rasters import SAMPLE, Raster, Statistics, measure, percentiles, unique_name, write_cog
from dlslicer_geo.layers.stream import Ask, Cut, Question, Rows, identity_of, lay, unanswered
from dlslicer_geo.types import APPROXIMATE_NOTE, Layer, Progress, Saliency, quiet

log = logging.getLogger(__name__)

LIMIT_PERCENTILE = 99
"""The colour scale ends at this percentile of |S|: a few extreme cells would leave the rest of a map pale."""


def stream_saliency(
    ask: Ask,
    chips: pd.DataFrame,
    out: str | Path,
    *,
    question: Question,
    provenance: Mapping[str, str] | None = None,
    sanity: Mapping[str, str] | None = None,
    progress: Progress = quiet,
) -> Layer:
    """Write ``out/saliency/<scene>.<city>[-rather-than-<city>].<method>.tif``, however large the scene is.

    Chips are explained from the top down, at most 256 at once, and blended in a strip one chip high; finished rows go
    to a hidden work file beside the target, from which the COG is made at the end. A process that was killed goes on
    where the work file ends and asks only for the chips that reach below it; a file that is finished is not asked for
    again. Both need the same ``question.identity`` and the same chips. One process may write a file at a time.

    Args:
        ask: explains chips by their numbers: int64 (n,) to a saliency of these n chips, in any order; always called
            with the same groups of chips, whole rows of them or parts of one row.
        chips: chips of one scene, in any order and with any gaps: ``chip_id``, ``row``, ``col``, ``height``,
            ``width``, ``stride`` as in the chip table.
        out: the folder for GIS files.
        question: what is explained, and the identity of the answer.
        provenance: names and values for the tag ``dlslicer_geo``.
        sanity: figures of how far the model's maps can be trusted, for tags ``SANITY_<NAME>``; these and
            ``provenance`` are those of the time of writing, so a file that is finished keeps its own.
        progress: watches the groups.

    Returns:
        the layer; ``limits`` are symmetric, the 99th percentile of |S| of the deepest layer.

    Raises:
        LayerError: if the chips differ in size or stride, there is none, or an answer is about something else.
    """
    cut, place = _cut(chips, question), _place(Path(out), question)
    if _is_finished(place, identity_of(question, cut)):
        log.debug("%s is there", place)
        return saliency_layer(place)
    rows = lay(ask, question, cut, _work(place), progress=progress)
    return _finish(rows, question, cut, place, _said(provenance, sanity))


def questions_left(chips: pd.DataFrame, out: str | Path, *, question: Question) -> list[NDArray[np.int64]]:
    """The groups of chips that :func:`stream_saliency` will ask about, in its order; none for a finished file.

    Whoever explains them meanwhile has the answer ready when it is asked for. The arguments are those of
    :func:`stream_saliency`, and its errors.
    """
    cut, place = _cut(chips, question), _place(Path(out), question)
    return [] if _is_finished(place, identity_of(question, cut)) else unanswered(question, cut, _work(place))


def write_saliency(
    why: Saliency,
    out: str | Path,
    *,
    provenance: Mapping[str, str] | None = None,
    sanity: Mapping[str, str] | None = None,
    progress: Progress = quiet,
) -> list[Layer]:
    """Write a COG per scene and explained city, named as by :func:`stream_saliency`, and its QGIS style.

    The file is float32 in the scene's own CRS, NaN where there is no chip: one band of blended raw relevance (signed,
    never rescaled) for each layer, shallow to deep, and ``coverage``, the number of chips over a cell. Its tags hold
    the method, the city, the chips' window and stride, the lattice, percentiles of every band, the limits of the
    colour scale and every note of ``why``; every band has its statistics.

    Args:
        why: raw relevance of chips with their windows and grids.
        out: the folder for GIS files.
        provenance: names and values for the tag ``dlslicer_geo``.
        sanity: figures of how far the model's maps can be trusted, for tags ``SANITY_<NAME>``.
        progress: shows how far it is.

    Returns:
        a layer per file, in the order of scene and city; ``limits`` are symmetric, the 99th percentile of |S| of
        the deepest layer.

    Raises:
        LayerError: if the chips of one scene differ in size or stride.
    """
    groups = list(_groups(why))
    layers = []
    for keep in progress(groups, total=len(groups), label="saliency"):
        part = why.select(keep)
        question = Question(
            scene=part.scene_id[0],
            city=part.city[0],
            method=part.method,
            layers=part.layers,
            rather_than=part.rather_than,
        )
        cut = Cut.of(question.scene, part.chip_id, part.windows, part.stride)
        place = _place(Path(out), question)
        rows = lay(partial(_known, part), question, cut, _work(place), progress=quiet)
        layers.append(_finish(rows, question, cut, place, _said(provenance, sanity)))
    log.info("wrote %d saliency files of %d chips", len(layers), len(why))
    return layers


def saliency_layer(path: Path) -> Layer:
    """The layer of a file that :func:`write_saliency` or :func:`stream_saliency` has written, from its own tags."""
    with rasterio.open(path) as source:
        tags = source.tags()
    low, high = (float(limit) for limit in tags["LIMITS"].split())
    city, rather_than = tags["CITY"], tags.get("RATHER_THAN", "")
    against = f"for {city}, blue for {rather_than}" if rather_than else "for the city, blue against it"
    return Layer(
        kind="saliency",
        path=path,
        title=f"{tags['SCENE']}: why {city}" + (f" rather than {rather_than}" if rather_than else ""),
        group=city,
        limits=(low, high),
        approximate="POSITION" in tags,
        note=f"{tags['METHOD']}, {tags['LAYERS'].split()[-1]}: red speaks {against}; raw values, "
        "every scene and city has its own scale.",
    )


def _cut(chips: pd.DataFrame, question: Question) -> Cut:
    windows = chips[["row", "col", "height", "width"]].to_numpy(np.int64)
    ids, stride = chips["chip_id"].to_numpy(np.int64), chips["stride"].to_numpy(np.int64)
    return Cut.of(question.scene, ids, windows, stride)


def _groups(why: Saliency) -> Iterator[NDArray[np.bool_]]:
    """Which chips are of each scene and city, in the order of both."""
    keys = pd.MultiIndex.from_arrays([why.scene_id, why.city])
    number, found = keys.factorize(sort=True)
    for group in range(len(found)):
        yield number == group


def _known(why: Saliency, chip_ids: NDArray[np.int64]) -> Saliency:
    """Answers from what was explained before."""
    return why.select(np.isin(why.chip_id, chip_ids))


def _place(out: Path, question: Question) -> Path:
    city = question.city + (f"-rather-than-{question.rather_than}" if question.rather_than else "")
    return out / "saliency" / f"{unique_name(question.scene, city, question.method)}.tif"


def _is_finished(place: Path, identity: str) -> bool:
    if not identity or not place.exists() or not place.with_suffix(".qml").exists():
        return False
    try:
        with rasterio.open(place) as source:
            return bool(source.tags().get("IDENTITY") == identity)
    except RasterioIOError:  # not written by us
        return False


def _work(place: Path) -> Path:
    """The work file of a target."""
    return place.with_name(f".{place.stem}.rows")


def _said(provenance: Mapping[str, str] | None, sanity: Mapping[str, str] | None) -> dict[str, str]:
    """Tags of what the caller says of all files."""
    tags = {f"SANITY_{name.upper()}": text for name, text in (sanity or {}).items()}
    return tags | {files.PROVENANCE_KEY: json.dumps(dict(provenance or {}), sort_keys=True)}


def _finish(rows: Rows, question: Question, cut: Cut, place: Path, said: dict[str, str]) -> Layer:
    """Make the COG of complete rows, and remove them."""
    for leftover in place.parent.glob(f".{glob.escape(place.stem)}.[0-9]*.t*"):
        leftover.unlink()  # of a process that was killed while it wrote the COG
    known = measure(rows)
    limit = _limit(known[-2])
    raster = Raster(
        values=rows,
        crs=rows.about["crs"],
        transform=rows.lattice.transform(Affine(*rows.about["transform"])),
        nodata=float("nan"),
        names=[*question.layers, "coverage"],
        tags=_tags(rows, question, cut, known) | {"LIMITS": f"{-limit:.9g} {limit:.9g}"} | said,
        statistics=known,
    )
    write_cog(place, raster, qml=styles.ramp_qml(styles.diverging(limit), band=len(question.layers)))
    rows.path.unlink()
    return saliency_layer(place)


def _limit(known: Statistics) -> float:
    """The end of the symmetric colour scale; 1 for a map without any relevance, which has no scale."""
    limit = float(np.percentile(np.abs(known.sample), LIMIT_PERCENTILE)) if len(known.sample) else 0.0
    return limit if limit > 0 else 1.0


def _tags(rows: Rows, question: Question, cut: Cut, known: list[Statistics]) -> dict[str, str]:
    _, _, height, width = cut.windows[0].tolist()
    lattice, about = rows.lattice, rows.about
    (cell_rows, cell_cols), (down, across) = lattice.cell, lattice.per_stride
    tags: dict[str, Any] = {
        "METHOD": question.method,
        "SCENE": question.scene,
        "CITY": question.city,
        "LAYERS": " ".join(question.layers),
        "CHIPS": len(cut.chip_id),
        "CHIP_WINDOW_PX": f"{height} x {width}",
        "STRIDE_PX": cut.stride,
        "INPUT_SIZE_PX": about["input_size"],
        "LATTICE": f"{down} x {across} cells per stride, cell {cell_rows:.6g} x {cell_cols:.6g} px, "
        f"first cell {lattice.origin[0]} {lattice.origin[1]} from pixel 0 0",
        "CELLS_LOOK": " ".join(f"{shift * 100:+.2f}%" for shift in rows.shifts)
        + " of a chip's edge below and to the right of the middle of their even share of the chip",
        "BLENDING": "bilinear, half-sample Hann weights, divided by their sum",
        "PERCENTILES_OF": "all cells" if known[0].complete else f"about {SAMPLE} cells drawn at random",
    }
    tags |= {
        f"PERCENTILES_{name}": percentiles(band.sample) for name, band in zip(question.layers, known, strict=False)
    }
    if about["approximate"]:
        tags["POSITION"] = APPROXIMATE_NOTE
    if question.rather_than:
        tags["RATHER_THAN"] = question.rather_than
    if identity := identity_of(question, cut):
        tags["IDENTITY"] = identity
    tags |= {f"NOTE_{name.upper()}": text for name, text in about["notes"].items()}
    return {name: str(value) for name, value in tags.items()}
