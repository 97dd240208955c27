"""A ``Run`` in, the files of one station out: each function reads tables, calls one room and says what it wrote."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.errors import ConfigError, SplitError
from dlslicer_geo.files import read_json, write_json, write_table, write_text
from dlslicer_geo.pipeline.runs import Done, Run, Station
from dlslicer_geo.types import Layer

if TYPE_CHECKING:
    import numpy as np
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from dlslicer_geo.types import Predictions

logger = logging.getLogger(__name__)

AT_ONCE = 256
"""Chips whose saliency is held in memory together, in whole scenes."""


def scan(run: Run) -> Done:
    """Images → ``scenes.parquet``."""
    from dlslicer_geo import scenes

    data = run.config.data
    roots: Any = list(run.images) if run.images else Path(data.root)
    table = scenes.scan(
        roots, pattern=data.pattern, cities=data.cities, on_bad=data.on_bad, progress=run.progress
    )  # fmt: skip
    rejected = table.attrs.get("rejected", [])
    table.attrs = {}
    table["path"] = [p if p.startswith("/vsi") else os.path.relpath(p, run.folder.resolve()) for p in table["path"]]
    path = write_table(table, run.folder / "scenes.parquet", run.provenance)
    cities = table["city"].nunique()
    logger.info("%d scenes of %s cities, %d files are no scenes", len(table), cities or "unknown", len(rejected))
    return Done(files=[path], notes={"scenes": len(table), "rejected": rejected})


def cut(run: Run) -> Done:
    """``scenes.parquet`` → ``cut.parquet``: every chip, not yet in any split."""
    from dlslicer_geo import chips

    table = chips.cut(run.scenes(), run.config.chips)
    dropped = table.attrs.get("dropped", [])
    table.attrs = {}
    path = write_table(table, run.folder / "cut.parquet", run.provenance)
    logger.info("%d chips of %d scenes", len(table), table["scene_id"].nunique())
    return Done(files=[path], notes={"chips": len(table), "dropped": dropped})


def split(run: Run) -> Done:
    """``cut.parquet`` → ``chips.parquet`` and ``split_certificate.json``."""
    from dlslicer_geo import splits

    table, certificate = splits.split(run.chips("cut.parquet"), run.config.split, scenes=run.scenes())
    table.attrs = {}
    files = [
        write_table(table, run.folder / "chips.parquet", run.provenance),
        write_json(run.folder / "split_certificate.json", certificate | {"provenance": run.provenance}),
    ]
    logger.info("chips per split: %s", json.dumps(table["split"].value_counts().sort_index().to_dict()))
    return Done(files=files)


def fit(run: Run) -> Done:
    """Train on chips that are proven disjoint → ``model.ckpt``."""
    scenes, chips = run.scenes(), run.chips()
    check_certificate(scenes, chips, run.folder / "split_certificate.json")
    from dlslicer_geo import model as room

    if not run.resuming:
        shutil.rmtree(run.folder / "fit", ignore_errors=True)
    data = data_module(run, scenes, chips)
    config, how = dataclasses.asdict(run.config.model), run.config.fit
    name, grid = config.pop("name"), run.config.chips
    chip = {"size": grid.size, "stride": grid.stride, "metres": grid.metres}
    classifier = room.CityClassifier(name, cities=data.cities, chip=chip, **config)
    room.fit(
        classifier, data, max_epochs=how.max_epochs, out=run.folder, views=how.views,
        early_stopping=how.early_stopping, loggers=_loggers(how.loggers), seed=run.config.seed, progress=run.progress,
    )  # fmt: skip
    return Done(files=[run.folder / "model.ckpt"])


def predict(run: Run) -> Done:
    """``model.ckpt`` and chips → prediction parts, GeoPackage, city and confidence COGs."""
    from dlslicer_geo import layers as gis
    from dlslicer_geo import model as room
    from dlslicer_geo.predict import predict as predict_chips

    classifier = room.load(run.checkpoint)
    scenes, chips = run.scenes(), run.chips()
    data = data_module(run, scenes, chips, cities=classifier.cities)
    what = run.config.predict
    found = predict_chips(
        classifier, data, split=what.split, out=run.folder / "predictions", embedding=what.embedding,
        chips_per_part=what.chips_per_part, provenance=run.provenance, progress=run.progress,
    )  # fmt: skip
    for stale in ("city", "confidence"):
        shutil.rmtree(run.folder / "gis" / stale, ignore_errors=True)
    layers = gis.write_predictions(found, chips, run.folder / "gis", provenance=run.provenance)
    parts = sorted((run.folder / "predictions").glob("part-*.parquet"))
    return Done(
        files=[*parts, run.folder / "predictions" / "manifest.json", *(x.path for x in layers)], layers=layers
    )


def score(run: Run) -> Done:
    """Predictions → ``metrics.json``, ``confusion.csv`` and its figure."""
    from dlslicer_geo import scenes as scene_room
    from dlslicer_geo import scores
    from dlslicer_geo.layers import draw_confusion
    from dlslicer_geo.predict import read_predictions

    found = read_predictions(run.folder / "predictions")
    scenes, chips = run.scenes(), run.chips()
    wanted = (chips["split"] == "train") | chips["chip_id"].isin(found.chip_id)
    colour = None
    if run.config.score.colour_baseline:
        colour = scene_room.channel_statistics(scenes, chips[wanted], progress=run.progress)
    report = scores.score(found, chips, colour=colour, seed=run.config.seed)
    metrics = {"split": run.config.predict.split, **report.metrics, "provenance": run.provenance}
    files = [
        write_json(run.folder / "metrics.json", metrics),
        write_text(run.folder / "confusion.csv", scores.confusion_frame(report).to_csv(lineterminator="\n")),
        run.folder / "figures" / "confusion.png",
    ]
    draw_confusion(report, files[-1])
    return Done(files=files)


def explain(run: Run) -> Done:
    """Model and chips → saliency COGs of whole scenes and a gallery of drawn chips."""
    from dlslicer_geo import layers as gis
    from dlslicer_geo import model as room
    from dlslicer_geo.predict import read_predictions
    from dlslicer_geo.relevance import explain as explain_chips

    classifier = room.load(run.checkpoint)
    scenes, chips = run.scenes(), run.chips()
    data = data_module(run, scenes, chips, cities=classifier.cities)
    found = read_predictions(run.folder / "predictions")
    how = run.config.explain
    options: dict[str, Any] = {"layers": how.layers, "method": how.method, "target": how.target}
    drawn = found.draw(how.per_city, seed=run.config.seed)
    why = explain_chips(classifier, data, chips=drawn, progress=run.progress, **options)
    gallery = run.folder / "figures" / "gallery.png"
    gis.draw_gallery(why, images(data, drawn), gallery, names=captions(found))
    shutil.rmtree(run.folder / "gis" / "saliency", ignore_errors=True)
    written: list[Layer] = []
    chosen = found.chip_id if how.scenes == "all" else drawn
    groups = list(whole_scenes(chips, chosen, found.chip_id))
    for part in run.progress(groups, total=len(groups), label="saliency of whole scenes"):
        why = explain_chips(classifier, data, chips=part, **options)
        written += gis.write_saliency(why, run.folder / "gis", provenance=run.provenance)
    imagery = image_layers(scenes, chips, chosen) if run.config.map.imagery else []
    return Done(files=[gallery, *(layer.path for layer in written)], layers=[*imagery, *written])


def similar(run: Run) -> Done:
    """Predictions → ``similarity.csv`` and ``neighbours.parquet``."""
    from dlslicer_geo.predict import read_predictions
    from dlslicer_geo.similarity import similar as compare

    found = read_predictions(run.folder / "predictions", embedding=True)
    matrix, look_alikes = compare(found, run.chips(), neighbours=run.config.similar.neighbours)
    files = [
        write_text(run.folder / "similarity.csv", matrix.to_csv(lineterminator="\n")),
        write_table(look_alikes, run.folder / "neighbours.parquet", run.provenance),
    ]
    return Done(files=files)


def draw_map(run: Run) -> Done:
    """Every layer written so far → ``map.html``."""
    from dlslicer_geo.webmap import webmap

    footprints = Layer(kind="scenes", path=run.folder / "scenes.parquet", title="Scenes")
    path = run.folder / "map.html"
    webmap([footprints, *run.layers()], title=run.config.map.title).save(path)
    return Done(files=[path])


def check_certificate(scenes: GeoDataFrame, chips: GeoDataFrame, path: Path) -> None:
    """Prove again, from the tables alone, that no two splits share anything.

    Raises:
        LeakError: naming the two chips.
        SplitError: if the certificate is absent or another table's.
    """
    from dlslicer_geo import splits

    splits.verify(chips, scenes=scenes)
    if not path.exists():
        raise SplitError(
            f"{path} does not exist: a model is only fitted on a split that is proven; run `split` first"
        )
    if read_json(path).get("chips_hash") != splits.chips_hash(chips):
        raise SplitError(f"{path} is the certificate of another chip table: run `split` again")


def data_module(run: Run, scenes: GeoDataFrame, chips: GeoDataFrame, *, cities: Any = None) -> Any:
    """The data module of a run."""
    from dlslicer_geo.data import ChipDataModule

    how = run.config.fit
    return ChipDataModule(
        scenes, chips, cities=cities, batch_size=how.batch_size, workers=how.workers, balanced=how.balanced,
        seed=run.config.seed,
    )  # fmt: skip


def images(data: Any, chip_ids: NDArray[np.int64]) -> dict[int, Any]:
    """Pixels uint8 (size, size, 3) of chips by their number."""
    samples = (data.dataset[int(i)] for i in chip_ids)
    return {int(s["chip_id"]): s["image"].permute(1, 2, 0).numpy() for s in samples}


def captions(found: Predictions) -> dict[int, str]:
    """What stands under a chip of the gallery, by chip number."""
    lines = zip(found.chip_id.tolist(), found.truth, found.city, strict=True)
    return {
        number: f"true {truth}, predicted {city}" if truth else f"predicted {city}" for number, truth, city in lines
    }


def whole_scenes(
    chips: GeoDataFrame, chosen: NDArray[np.int64], predicted: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """The predicted chips of the scenes that the chosen chips lie in, whole scenes at a time."""
    import numpy as np

    scene_of = chips["scene_id"].to_numpy()
    wanted = set(scene_of[chosen])
    ids = np.sort(predicted)
    ids = ids[np.fromiter((scene_of[i] in wanted for i in ids), bool, len(ids))]
    starts = np.flatnonzero(np.r_[True, scene_of[ids][1:] != scene_of[ids][:-1]])
    cuts: list[int] = []
    for start in starts.tolist():
        if start - (cuts[-1] if cuts else 0) >= AT_ONCE:
            cuts.append(start)
    yield from np.split(ids, cuts)


def image_layers(scenes: GeoDataFrame, chips: GeoDataFrame, chosen: NDArray[np.int64]) -> list[Layer]:
    """The imagery of the scenes that the chosen chips lie in."""
    wanted = scenes[scenes["scene_id"].isin(set(chips["scene_id"].to_numpy()[chosen]))]
    return [
        Layer(kind="image", path=Path(row["path"]), title="Imagery", group=row["city"] or row["scene_id"])
        for row in wanted.to_dict("records")
    ]


def _loggers(described: list[dict[str, Any]]) -> list[Any]:
    """Lightning loggers by class path, checked against their signatures by jsonargparse."""
    if not described:
        return []
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser
    from lightning.pytorch.loggers import Logger

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Logger, "logger")
    try:
        return [parser.instantiate(parser.parse_object({"logger": one}))["logger"] for one in described]
    except ArgumentError as error:
        raise ConfigError(f"fit.loggers: {' '.join(str(error).split())[:300]}") from None


STATIONS = (
    Station(name="scan", work=scan, needs=(), sections=("data",), rooms=("scenes",)),
    Station(name="cut", work=cut, needs=("scenes.parquet",), sections=("chips",), rooms=("chips",)),
    Station(
        name="split", work=split, needs=("scenes.parquet", "cut.parquet"), sections=("split",), rooms=("splits",)
    ),
    Station(
        name="fit",
        work=fit,
        needs=("scenes.parquet", "chips.parquet", "split_certificate.json"),
        sections=("chips", "model", "fit", "seed"),
        rooms=("data", "model"),
    ),
    Station(
        name="predict",
        work=predict,
        needs=("scenes.parquet", "chips.parquet", "model.ckpt"),
        sections=("predict", "fit"),
        rooms=("data", "model", "predict", "layers"),
    ),
    Station(
        name="score",
        work=score,
        needs=("scenes.parquet", "chips.parquet", "predictions/manifest.json"),
        sections=("score", "predict", "seed"),
        rooms=("scenes", "scores", "layers"),
    ),
    Station(
        name="explain",
        work=explain,
        needs=("scenes.parquet", "chips.parquet", "model.ckpt", "predictions/manifest.json"),
        sections=("explain", "map", "seed"),
        rooms=("data", "model", "relevance", "layers"),
    ),
    Station(
        name="similar",
        work=similar,
        needs=("chips.parquet", "predictions/manifest.json"),
        sections=("similar",),
        rooms=("similarity",),
    ),
    Station(name="map", work=draw_map, needs=("scenes.parquet", "layers"), sections=("map",), rooms=("webmap",)),
)
"""The stations in order."""

APPLIED = tuple(s for s in STATIONS if s.name in ("scan", "cut", "predict", "explain", "map"))
"""The stations of a model that is applied to new images."""
