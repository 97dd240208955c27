"""A ``Run`` in; the sanity of its explanations, saliency on the ground, galleries and summaries out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.errors import ConfigError
from dlslicer_geo.files import read_json, sha256_file, write_json, write_table, write_text
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

TOGETHER = 256
"""Chips of small scenes that are explained together."""

PICTURE = 256
"""Edge in pixels at which the chips of galleries are held."""


def check(run: Run) -> Done:
    """Model and predicted chips → ``saliency_check.json``: can its explanations be right?"""
    how = run.config.check
    if not how.chips:
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
    """What ``check`` found about the model at hand; None where it was not asked, or was about another model."""
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
    chosen = _on_the_ground(chips, found, drawn, run)
    if not run.resuming:
        for folder in ("gis/saliency", "gis/masked", "explain"):
            shutil.rmtree(run.folder / folder, ignore_errors=True)
    asking = relevance.Explainer(
        classifier, data, layers=how.layers, method=how.method, precision=how.precision,
        target=_target(run, classifier, data, found, chosen), rather_than=how.rather_than or "",
    )  # fmt: skip
    laid = dict(_lay(run, asking, chips.set_index("chip_id", drop=False).loc[chosen]))
    layers = list(laid.values())
    table, files = _summaries(run)
    files += _polygons(run, layers)
    files += _masked(run, laid, scenes)
    files += _pictures(run, asking, table, found, drawn)
    shutil.rmtree(run.folder / "explain", ignore_errors=True)
    imagery = image_layers(scenes, chips, chosen) if run.config.map.imagery else []
    return Done(files=[*files, *(layer.path for layer in layers)], layers=[*imagery, *layers])


def _on_the_ground(chips: GeoDataFrame, found: Predictions, drawn: NDArray[np.int64], run: Run) -> NDArray[np.int64]:
    """The chips whose saliency is laid on the ground, sorted."""
    import numpy as np

    from dlslicer_geo import layers as gis

    how, ids = run.config.explain, chips["chip_id"].to_numpy(np.int64)
    if how.chips == "drawn":
        chosen = drawn
    elif how.chips == "predicted":
        chosen = np.sort(found.chip_id)
    else:
        inside = chips["scene_id"].isin(set(chips.loc[np.isin(ids, drawn), "scene_id"]))
        chosen = np.sort(ids if how.chips == "all" else ids[inside.to_numpy()])
    if how.within is None:
        return chosen
    area = gis.read_polygons(how.within).to_crs(4326)
    touching = np.unique(chips.sindex.query(area.geometry, predicate="intersects")[1])
    within = chosen[np.isin(chosen, ids[touching])]
    if not len(within):
        raise ConfigError(
            f"none of {len(chosen)} chips ({how.chips}) touches {how.within}: give other polygons, or take "
            "explain.chips all"
        )
    return within


def _target(
    run: Run, classifier: Any, data: Any, found: Predictions, chosen: NDArray[np.int64]
) -> str | dict[str, str]:
    """What is explained: as configured, and for ``predicted`` the most probable city of every scene."""
    import numpy as np
    import pandas as pd

    from dlslicer_geo.relevance import predicted_cities

    if run.config.explain.target != "predicted":
        return run.config.explain.target
    mean = pd.DataFrame(found.probabilities).groupby(np.array(found.scene_id)).mean()
    cities = {
        str(scene): found.cities[i] for scene, i in zip(mean.index, mean.to_numpy().argmax(axis=1), strict=True)
    }
    scene_of = data.chips.set_index("chip_id")["scene_id"]
    others = chosen[~scene_of.loc[chosen].isin(set(cities)).to_numpy()]
    return cities | (predicted_cities(classifier, data, others, progress=run.progress) if len(others) else {})


def _lay(run: Run, asking: Explainer, rows: GeoDataFrame) -> Iterator[tuple[str, Layer]]:
    """Scene ids with the layers of their saliency files."""
    from dlslicer_geo import layers as gis

    identity = str(run.record("explain")["key"])
    said = checked(run)
    options: dict[str, Any] = {"provenance": run.provenance, "sanity": _sanity(said, asking) if said else {}}
    groups = list(_together(rows))
    for scenes in run.progress(groups, total=len(groups), label="explain scenes"):
        ask = _ask(asking, scenes, run.folder / "explain")
        for scene, chips in scenes.items():
            city = asking.city_of(scene, chips["city"].iloc[0])
            question = gis.Question(
                scene=scene, city=city, method=asking.method, layers=asking.layers,
                rather_than=asking.rather_than, identity=identity,
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


def _sanity(said: Mapping[str, Any], asking: Explainer) -> dict[str, str]:
    """The figures of the check that are about this method, for the tags of its files."""
    figures = ("conservation", "head_shuffled", "head_shuffled_absolute", "class_contrast", "twin")
    return {
        f"{name}_{row['layer']}": f"{row[name]:.3g}"
        for row in said["rows"]
        if row["method"] == asking.method and row["layer"] in asking.layers
        for name in figures
        if row.get(name) is not None
    }


def _summaries(run: Run) -> tuple[DataFrame, list[Path]]:
    """``saliency.parquet``, a row per explained chip, and ``saliency_cities.csv``."""
    import pandas as pd

    from dlslicer_geo.relevance.summaries import summarize_cities

    parts = sorted((run.folder / "explain").glob("part-*.parquet"))
    table = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
    table = table.drop_duplicates("chip_id", keep="last").sort_values("chip_id", ignore_index=True)
    cities = summarize_cities(table)
    return table, [
        write_table(table, run.folder / "saliency.parquet", run.provenance),
        write_text(run.folder / "saliency_cities.csv", cities.to_csv(index=False, lineterminator="\n")),
    ]


def _polygons(run: Run, layers: list[Layer]) -> list[Path]:
    """Relevance over the polygons that were asked for, as a table and a layer."""
    from dlslicer_geo import layers as gis

    given = run.config.explain.polygons
    if given is None:
        for stale in (run.folder / "polygons.parquet", run.folder / "gis" / "polygons.gpkg"):
            stale.unlink(missing_ok=True)
        return []
    return gis.write_polygons(gis.by_polygon(layers, gis.read_polygons(given)), run.folder, provenance=run.provenance)


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
