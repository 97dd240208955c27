"""A ``Run`` in; the sanity of its explanations, saliency on the ground, galleries and summaries out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.files import read_json, sha256_file, sha256_json, write_json, write_table, write_text
from dlslicer_geo.pipeline.chosen import on_the_ground, read_zones, target_of
from dlslicer_geo.pipeline.pieces import captions, city_names, data_module, image_layers, images
from dlslicer_geo.pipeline.runs import Done, Run
from dlslicer_geo.types import Layer, Scene

if TYPE_CHECKING:
    import numpy as np
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from pandas import DataFrame

    from dlslicer_geo.relevance import Explainer
    from dlslicer_geo.types import Predictions, Saliency

logger = logging.getLogger(__name__)

TOGETHER = 64
"""Chips of small scenes that are explained together; a killed run loses so many at most."""

PICTURE = 256
"""Edge in pixels at which the chips of galleries are held."""


def check(run: Run) -> Done:
    """Model and predicted chips → ``saliency_check.json``: can its explanations be right?"""
    how = run.config.check
    if not how.chips:
        logger.info("check.chips is 0: explanations are not checked")
        return Done(files=[])
    import numpy as np

    from dlslicer_geo import model as room
    from dlslicer_geo.predict import read_predictions
    from dlslicer_geo.relevance.check import check as compare

    classifier = room.load(run.checkpoint)
    data = data_module(run, run.scenes(), run.chips(), cities=classifier.cities)
    found = read_predictions(run.folder / "predictions")
    ids = np.sort(np.random.default_rng(run.config.seed).permutation(found.chip_id)[: how.chips])
    twin = room.load(how.twin) if how.twin else None
    said = compare(
        classifier, data, chips=ids, layers=how.layers, seed=run.config.seed, twin=twin, progress=run.progress
    )
    said["predictions_sha256"] = sha256_file(run.folder / "predictions" / "manifest.json")
    return Done(files=[write_json(run.folder / "saliency_check.json", said | {"provenance": run.provenance})])


def checked(run: Run) -> dict[str, Any] | None:
    """What ``check`` found about the predictions at hand; None where it was not asked, or was about others."""
    path = run.folder / "saliency_check.json"
    if not path.exists():
        return None
    said: dict[str, Any] = read_json(path)
    if said.get("predictions_sha256") != sha256_file(run.folder / "predictions" / "manifest.json"):
        logger.warning("%s is about other predictions and is left out: run `explain --check` again", path)
        return None
    return said


def explain(run: Run) -> Done:
    """Model and chips → saliency COGs, galleries, portraits, and summaries per chip, city and polygon."""
    from dlslicer_geo import model as room
    from dlslicer_geo import relevance
    from dlslicer_geo.predict import read_predictions

    classifier, how = room.load(run.checkpoint), run.config.explain
    scenes, chips = run.scenes(), run.chips()
    data = data_module(run, scenes, chips, cities=classifier.cities)
    found = read_predictions(run.folder / "predictions")
    drawn = found.draw(how.per_city, seed=run.config.seed)
    chosen = on_the_ground(run, scenes, chips, found, drawn)
    polygons = read_zones(run, chips, chosen)
    asking = relevance.Explainer(
        classifier, data, layers=how.layers, method=how.method, precision=how.precision,
        target=target_of(run, classifier, data, found, chosen), rather_than=how.rather_than or "",
    )  # fmt: skip
    asking.check(chosen)  # whatever is wrong is said before anything is lost
    work = _begin(run, asking)
    laid = dict(_lay(run, asking, chips.set_index("chip_id", drop=False).loc[chosen], work))
    layers = list(laid.values())
    table, files = _summaries(run, asking, chosen, work)
    files += _zones(run, layers, polygons)
    files += _masked(run, laid, scenes)
    _sweep(run, [layer.path for layer in layers])
    files += _pictures(run, asking, table, found, drawn)
    imagery = image_layers(scenes, chips, chosen) if run.config.map.imagery else []
    rasters = [path for layer in layers for path in (layer.path, layer.path.with_suffix(".qml"))]
    return Done(files=[*files, *rasters], layers=[*imagery, *layers])


def _begin(run: Run, asking: Explainer) -> Path:
    """The folder for summaries of these very answers; those of others are removed, and all if work is forced."""
    folder = run.folder / "explain"
    if run.force:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(run.folder / "gis" / "saliency", ignore_errors=True)
    question = {"notes": asking.notes, "target": asking.target, "rather_than": asking.rather_than}
    question["sanity"] = _sanity(run, asking)  # a file that knows nothing of the check is made again
    identity = sha256_json(
        [question, asking.method, asking.layers, run.answers_from("explain", "data", "model", "relevance", "layers")]
    )
    for other in folder.glob("*"):
        if other.name != identity:
            shutil.rmtree(other)
    return folder / identity


def _lay(run: Run, asking: Explainer, rows: GeoDataFrame, work: Path) -> Iterator[tuple[str, Layer]]:
    """Scene ids with the layers of their saliency files."""
    from dlslicer_geo import layers as gis

    options: dict[str, Any] = {"provenance": run.provenance, "sanity": _sanity(run, asking)}
    groups = list(_together(rows))
    for scenes in run.progress(groups, total=len(groups), label="explain scenes"):
        ask = _ask(asking, scenes, work)
        for scene, chips in scenes.items():
            question = gis.Question(
                scene=scene, city=asking.city_of(scene, chips["city"].iloc[0]), method=asking.method,
                layers=asking.layers, rather_than=asking.rather_than, identity=work.name,
            )  # fmt: skip
            yield scene, gis.stream_saliency(ask, chips, run.folder / "gis", question=question, **options)


def _together(rows: GeoDataFrame) -> Iterator[dict[str, DataFrame]]:
    """Small scenes that are explained in one go, large ones by themselves; the same ones each time."""
    group: dict[str, DataFrame] = {}
    for scene, chips in rows.groupby("scene_id", sort=True):
        if group and sum(map(len, group.values())) + len(chips) > TOGETHER:
            yield group
            group = {}
        group[str(scene)] = chips
    if group:
        yield group


def _ask(asking: Explainer, scenes: dict[str, DataFrame], parts: Path) -> Callable[[NDArray[np.int64]], Saliency]:
    """What explains the chips of these scenes: all at once when the first is asked about, if there are several."""
    import numpy as np

    if len(scenes) == 1:
        return lambda ids: _noted(asking(ids), parts)
    answers: list[Saliency] = []

    def ask(ids: NDArray[np.int64]) -> Saliency:
        if not answers:
            every = np.concatenate([chips["chip_id"].to_numpy(np.int64) for chips in scenes.values()])
            answers.append(_noted(asking(every), parts))
        return answers[0].select(np.isin(answers[0].chip_id, ids))

    return ask


def _noted(why: Saliency, parts: Path) -> Saliency:
    """An answer, its summary on disk before its rows are: a killed run asks for it no more."""
    from dlslicer_geo.relevance.summaries import summarize

    write_table(summarize(why), parts / f"part-{why.chip_id.min():09d}-{why.chip_id.max():09d}.parquet")
    return why


def _sanity(run: Run, asking: Explainer) -> dict[str, str]:
    """What a check of this model, here or where it was trained, found of this method: for the tags of its files."""
    places = [folder / "saliency_check.json" for folder in (run.folder, run.checkpoint.parent)]
    said: dict[str, Any] = next((read_json(place) for place in places if place.exists()), {})
    if said.get("weights_sha256") != asking.notes["weights_sha256"]:
        return {}
    figures = ("conservation", "head_shuffled", "head_shuffled_absolute", "class_contrast", "twin")
    return {
        f"{name}_{row['layer']}": f"{row[name]:.3g}"
        for row in said["rows"]
        if row["method"] == asking.method and row["layer"] in asking.layers
        for name in figures
        if row.get(name) is not None
    }


def _summaries(run: Run, asking: Explainer, chosen: NDArray[np.int64], work: Path) -> tuple[DataFrame, list[Path]]:
    """``saliency.parquet``, a row per explained chip, and ``saliency_cities.csv``."""
    import numpy as np
    import pandas as pd

    from dlslicer_geo.relevance.summaries import summarize_cities

    def read() -> DataFrame:
        parts = [pd.read_parquet(part) for part in sorted(work.glob("part-*.parquet"))]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"chip_id": np.zeros(0, np.int64)})
        return table[table["chip_id"].isin(chosen)].drop_duplicates("chip_id", keep="last")

    lost = np.setdiff1d(chosen, read()["chip_id"])  # somebody removed parts of what was done
    for first in range(0, len(lost), TOGETHER):
        _noted(asking(lost[first : first + TOGETHER]), work)
    table = read().sort_values("chip_id", ignore_index=True)
    cities = summarize_cities(table)
    return table, [
        write_table(table, run.folder / "saliency.parquet", run.provenance),
        write_text(run.folder / "saliency_cities.csv", cities.to_csv(index=False, lineterminator="\n")),
    ]


def _zones(run: Run, layers: list[Layer], polygons: GeoDataFrame | None) -> list[Path]:
    """Relevance over the polygons that were asked for, as a table and a layer."""
    from dlslicer_geo import layers as gis

    if polygons is None:
        for stale in (run.folder / "polygons.parquet", run.folder / "gis" / "polygons.gpkg"):
            stale.unlink(missing_ok=True)
        return []
    return gis.write_polygons(gis.by_polygon(layers, polygons), run.folder, provenance=run.provenance)


def _sweep(run: Run, written: list[Path]) -> None:
    """Remove the saliency and masked scenes of other questions."""
    names = {name for path in written for name in (path.name, path.with_suffix(".qml").name)}
    for folder in ("saliency", "masked"):
        for path in (run.folder / "gis" / folder).glob("*"):
            if path.name not in names or (folder == "masked" and not run.config.explain.masked):
                path.unlink()


def _masked(run: Run, laid: Mapping[str, Layer], scenes: GeoDataFrame) -> list[Path]:
    """The imagery where relevance is high, as GeoTIFFs."""
    from dlslicer_geo import layers as gis

    if not run.config.explain.masked:
        return []
    records = {str(record["scene_id"]): record for record in scenes.to_dict("records")}
    files = []
    for scene, layer in run.progress(list(laid.items()), total=len(laid), label="masked scenes"):
        shown, out = Scene.from_record(records[scene]), run.folder / "gis"
        files.append(gis.write_masked(layer.path, shown, out, provenance=run.provenance))
    return files


def _pictures(
    run: Run, asking: Explainer, table: DataFrame, found: Predictions, drawn: NDArray[np.int64]
) -> list[Path]:
    """Galleries and portraits of the cities, and the page that shows both."""
    import numpy as np

    from dlslicer_geo import layers as gis
    from dlslicer_geo.relevance.windows import choose_windows

    for stale in ("gallery", "portrait"):
        shutil.rmtree(run.folder / "figures" / stale, ignore_errors=True)
    names = city_names(asking.data.scenes)
    why = asking(drawn, progress=run.progress)
    windows = choose_windows(table, asking.data.chips, number=run.config.explain.portrait)
    shown = np.unique(np.concatenate([drawn, windows["chip_id"].to_numpy(np.int64)]))
    pixels = images(asking.data, shown, edge=PICTURE)
    folder, captured = run.folder / "figures", captions(found)
    files = gis.draw_gallery(why, pixels, folder / "gallery", captions=captured, names=names)
    if len(windows):
        portrayed = asking(np.unique(windows["chip_id"].to_numpy(np.int64)))
        files += gis.draw_portraits(windows, portrayed, pixels, folder / "portrait", names=names)
    page = gis.write_gallery_page(
        run.folder / "gallery.html", why, pixels, captions=captured, names=names, windows=windows,
        provenance=_origin(run),
    )  # fmt: skip
    return [*files, page]


def _origin(run: Run) -> dict[str, str]:
    """What the page says of where it comes from."""
    said = {name: run.provenance[name] for name in ("version", "config_hash", "input_hash")}
    return {"run": run.folder.resolve().name, "seed": str(run.config.seed)} | said
