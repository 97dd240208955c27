"""A ``Run`` in, the files of one station out: each function reads tables, calls one room and says what it wrote."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from dlslicer_geo.files import read_json, sha256_file, write_json, write_table, write_text
from dlslicer_geo.pipeline import ranks
from dlslicer_geo.pipeline.calibration import calibrate
from dlslicer_geo.pipeline.executors import pool, pool_for_many
from dlslicer_geo.pipeline.explaining import check, checked, explain
from dlslicer_geo.pipeline.paths import relative_to
from dlslicer_geo.pipeline.pieces import (
    check_certificate,
    city_names,
    data_module,
    keep_chips,
    loggers,
    outside,
    reading_of,
    unit_name,
)
from dlslicer_geo.pipeline.readers import optional_json, optional_table, other_run, read_given
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.pipeline.showing import catalog, draw_map
from dlslicer_geo.pipeline.steps import Done, Station
from dlslicer_geo.types import APPROXIMATE

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame

    from dlslicer_geo.types import Predictions

logger = logging.getLogger(__name__)


def scan(run: Run) -> Done:
    """Images → ``scenes.parquet``, ``prepared/`` where needed, and ``scenes.html``."""
    from dlslicer_geo import scenes
    from dlslicer_geo.scenes.review.report import write_report

    data, grid = run.config.data, run.config.chips
    with pool(run.config.compute, reads=run.bytes_to_scan()) as executor:
        found = scenes.survey(
            list(run.images or [data.root]), pattern=data.pattern, cities=data.cities, on_bad=data.on_bad,
            reading=data, prepared=run.folder / "prepared", grid=grid, progress=run.progress, executor=executor,
        )  # fmt: skip
    table, rejected = found.table, found.rejected
    report = write_report(
        run.folder / "scenes.html", table, thumbnails=found.thumbnails, duplicates=found.duplicates,
        overlaps=found.overlaps, rejected=rejected, grid=grid, title=f"Scenes of {run.folder.name}",
    )  # fmt: skip
    prepared = [Path(path) for path in table["path"][table["prepared"].notna()]]
    read = outside([data.root, *run.images], table["source"])
    for column in ("path", "source"):
        table[column] = [relative_to(run.folder, path) for path in table[column]]
    path = write_table(table, run.folder / "scenes.parquet", run.provenance)
    vague = int(table["georef"].isin(APPROXIMATE).sum())
    logger.info(
        "%d scenes of %s cities (%d of approximate position), %d files are no scenes",
        len(table), table["city"].nunique() or "unknown", vague, len(rejected),
    )  # fmt: skip
    notes = {"scenes": len(table), "approximate": vague, "rejected": rejected}
    return Done(files=[path, report], large=prepared, read=read, notes=notes)


def cut(run: Run) -> Done:
    """``scenes.parquet`` → ``cut.parquet``: every chip, not yet in any split."""
    from dlslicer_geo import chips, splits

    scenes = run.scenes()
    table = chips.cut(scenes, run.config.chips, regions=splits.regions(scenes, run.config.split))
    dropped = table.attrs.get("dropped", [])
    table.attrs = {}
    path = write_table(table, run.folder / "cut.parquet", run.provenance)
    logger.info("%d chips of %d scenes", len(table), table["scene_id"].nunique())
    return Done(files=[path], notes={"chips": len(table), "dropped": dropped})


def split(run: Run) -> Done:
    """``cut.parquet`` → ``chips.parquet`` and ``split_certificate.json``."""
    from dlslicer_geo import splits

    rule = run.config.split
    given = read_given(rule.given) if rule.given else None
    table, certificate = splits.split(run.chips("cut.parquet"), rule, scenes=run.scenes(), given=given)
    table.attrs = {}
    certificate["rule"]["given"] = run.plain_config["split"]["given"]  # a path that can be moved with the run
    files = [
        write_table(table, run.folder / "chips.parquet", run.provenance),
        write_json(run.folder / "split_certificate.json", certificate | {"provenance": run.provenance}),
    ]
    return Done(files=files)


def fit(run: Run) -> Done:
    """Train on chips that are proven disjoint, and calibrate → ``model.ckpt``."""
    from dlslicer_geo import model as room

    scenes, chips, where = run.scenes(), run.chips(), run.config.compute
    ranks.first(lambda: _prepared(run, scenes, chips))
    data = data_module(run, scenes, chips)
    config, how = dataclasses.asdict(run.config.model), run.config.fit
    name, grid = config.pop("name"), run.config.chips
    chip = {"size": grid.size, "stride": grid.stride, "metres": grid.metres, **reading_of(run, scenes)}
    classifier = room.CityClassifier(name, cities=data.cities, chip=chip, **config)
    room.fit(
        classifier, data, max_epochs=how.max_epochs, out=run.folder, views=how.views,
        early_stopping=how.early_stopping, ema=how.ema, accumulate=how.accumulate, precision=how.precision,
        loggers=loggers(how.loggers), seed=run.config.seed, trainer=ranks.trainer_options(where),
        progress=run.progress,
    )  # fmt: skip
    notes = ranks.first(
        lambda: calibrate(
            classifier, data, run.checkpoint, detector=how.detector, seed=run.config.seed,
            trainer=ranks.alone(where), progress=run.progress,
        )
    )  # fmt: skip
    return Done(files=[run.checkpoint], notes={"calibration": notes})


def _prepared(run: Run, scenes: GeoDataFrame, chips: GeoDataFrame) -> None:
    """Everything that has to be there before a training begins, and nothing of another one."""
    check_certificate(scenes, chips, run.folder / "split_certificate.json", proven=run.config.split.proven)
    if not run.resuming:
        shutil.rmtree(run.folder / "fit", ignore_errors=True)
    keep_chips(run, scenes, chips)


def predict(run: Run) -> Done:
    """``model.ckpt`` and chips → prediction parts, GeoPackage, city and confidence COGs."""
    from dlslicer_geo import model as room
    from dlslicer_geo.predict import predict as predict_chips

    classifier = room.load(run.checkpoint)
    scenes, chips = run.scenes(), run.chips()
    data = data_module(run, scenes, chips, cities=classifier.cities)
    what = run.config.predict
    found = predict_chips(
        classifier, data, split=what.split, out=run.folder / "predictions", embedding=what.embedding,
        chips_per_part=what.chips_per_part, batch_size=what.batch_size, precision=what.precision,
        compile=what.compile, dense=what.dense, trainer=ranks.trainer_options(run.config.compute),
        provenance=run.provenance, progress=run.progress,
    )  # fmt: skip
    return ranks.first(lambda: _predicted(run, found, chips))


def _predicted(run: Run, found: Predictions, chips: GeoDataFrame) -> Done:
    """What a GIS opens of predictions that are all there."""
    from dlslicer_geo import layers as gis

    for stale in ("city", "confidence"):
        shutil.rmtree(run.folder / "gis" / stale, ignore_errors=True)
    with pool_for_many(run.config.compute, len(set(found.scene_id))) as executor:
        layers = gis.write_predictions(
            found, chips, run.folder / "gis", provenance=run.provenance, executor=executor, progress=run.progress
        )
    parts = sorted((run.folder / "predictions").glob("part-*.parquet"))
    files = [*parts, run.folder / "predictions" / "manifest.json", *(x.path for x in layers)]
    files += [x.path.with_suffix(".qml") for x in layers if x.kind != "chips"]
    return Done(files=files, layers=layers)


def probe(run: Run) -> Done:
    """Model and predicted chips → ``probes.parquet`` and ``frozen.parquet``: what the model leans on."""
    import numpy as np

    from dlslicer_geo import model as room
    from dlslicer_geo import probes
    from dlslicer_geo.predict import read_predictions

    classifier, how = room.load(run.checkpoint), run.config.probe
    data = data_module(run, run.scenes(), run.chips(), cities=classifier.cities)
    found = read_predictions(run.folder / "predictions")
    ids = np.sort(np.random.default_rng(run.config.seed).permutation(found.chip_id)[: how.chips])
    where = run.config.compute.accelerator
    with room.placed(classifier, where):
        table = probes.probe(classifier, data, ids, changes=how.changes, progress=run.progress)
    files = [write_table(table, run.folder / "probes.parquet", run.provenance)]
    name, weights = run.config.model.name, run.config.model.weights
    if how.frozen_baseline and weights:
        start = room.CityClassifier(
            name, cities=classifier.cities, weights=weights, input_size=run.config.model.input_size
        )
        with room.placed(start, where):
            said = probes.frozen_baseline(start, data, found.chip_id, seed=run.config.seed, progress=run.progress)
        files.append(write_table(said, run.folder / "frozen.parquet", run.provenance))
    else:
        (run.folder / "frozen.parquet").unlink(missing_ok=True)  # of another network, or no longer asked for
    return Done(files=files)


def score(run: Run) -> Done:
    """Predictions → ``metrics.json``, ``confusion.csv``, figures and ``report.html``."""
    from dlslicer_geo import report as page
    from dlslicer_geo import scenes as scene_room
    from dlslicer_geo import scores
    from dlslicer_geo.predict import read_predictions

    found = read_predictions(run.folder / "predictions")
    scenes, chips = run.scenes(), run.chips()
    how, certificate = run.config.score, read_json(run.folder / "split_certificate.json")
    colour = None
    if how.colour_baseline:
        wanted = (chips["split"] == "train") | chips["chip_id"].isin(found.chip_id)
        colour = scene_room.channel_statistics(scenes, chips[wanted], progress=run.progress)
    report = scores.score(
        found, chips, colour=colour, frozen=_probed(run, "frozen.parquet"),
        probes=_probed(run, "probes.parquet"), per_city=how.per_city, unit=unit_name(certificate),
        against=other_run(how.against, chips) if how.against else None, seed=run.config.seed,
    )  # fmt: skip
    metrics = {**report.metrics, "split": run.config.predict.split, "provenance": run.provenance}
    path = page.write_report(
        run.folder / "report.html", report, chips=chips, found=found, certificate=certificate,
        provenance=run.provenance, names=city_names(scenes), title=run.config.map.title,
        leave_city_out=optional_json(run.folder / "leave_city_out.json"),
        ablation=optional_json(run.folder / "ablation.json"), saliency_check=checked(run),
    )  # fmt: skip
    drawn = [run.folder / "figures" / name for name in page.FIGURES]
    files = [
        write_json(run.folder / "metrics.json", metrics),
        write_text(run.folder / "confusion.csv", scores.confusion_frame(report).to_csv(lineterminator="\n")),
        path,
    ]
    return Done(files=[*files, *(figure for figure in drawn if figure.exists())])


def _probed(run: Run, name: str) -> DataFrame | None:
    """What ``probe`` found for these very predictions; None where it was not asked, or was about others."""
    manifest = "predictions/manifest.json"  # has the hash of every weight and window
    record = run.record("probe")
    fresh = record.get("status") == "done" and record["inputs"][manifest] == sha256_file(run.folder / manifest)
    if (run.folder / name).exists() and not fresh:
        logger.warning("%s is about other predictions and is left out: run `probe` again", run.folder / name)
        return None
    return optional_table(run.folder / name)


def similar(run: Run) -> Done:
    """Predictions → ``similarity.csv``, its figure and ``neighbours.parquet``."""
    from dlslicer_geo import report
    from dlslicer_geo.predict import read_predictions
    from dlslicer_geo.similarity import similar as compare

    found = read_predictions(run.folder / "predictions", embedding=True)
    matrix, look_alikes = compare(found, run.chips(), neighbours=run.config.similar.neighbours)
    files = [
        write_text(run.folder / "similarity.csv", matrix.to_csv(lineterminator="\n")),
        write_table(look_alikes, run.folder / "neighbours.parquet", run.provenance),
    ]
    drawn = [run.folder / "figures" / f"similarity.{kind}" for kind in ("png", "svg")]
    for stale in drawn:
        stale.unlink(missing_ok=True)
    if len(matrix) > 1:
        report.draw_similarity(matrix, drawn[0])
    return Done(files=[*files, *(figure for figure in drawn if figure.exists())])


STATIONS = (
    Station(name="scan", work=scan, needs=(), sections=("data", "chips"), rooms=("scenes",)),
    Station(name="cut", work=cut, needs=("scenes.parquet",), sections=("chips", "split"), rooms=("chips", "splits")),
    Station(
        name="split", work=split, needs=("scenes.parquet", "cut.parquet"), sections=("split",), rooms=("splits",)
    ),
    Station(
        name="fit",
        work=fit,
        needs=("scenes.parquet", "chips.parquet", "split_certificate.json"),
        sections=("chips", "split", "model", "fit", "seed"),
        rooms=("data", "model", "scores", "splits"),
        everywhere=True,
    ),
    Station(
        name="predict",
        work=predict,
        needs=("scenes.parquet", "chips.parquet", "model.ckpt"),
        sections=("predict",),
        rooms=("data", "model", "predict", "layers"),
        everywhere=True,
    ),
    Station(
        name="probe",
        work=probe,
        needs=("scenes.parquet", "chips.parquet", "model.ckpt", "predictions/manifest.json"),
        sections=("probe", "model", "fit", "seed"),
        rooms=("data", "model", "probes"),
    ),
    Station(
        name="check",
        work=check,
        needs=("scenes.parquet", "chips.parquet", "model.ckpt", "predictions/manifest.json"),
        sections=("check", "fit", "seed"),
        rooms=("data", "model", "relevance"),
    ),
    Station(
        name="score",
        work=score,
        needs=(
            "scenes.parquet",
            "chips.parquet",
            "split_certificate.json",
            "predictions/manifest.json",
            "probes.parquet?",
            "frozen.parquet?",
            "saliency_check.json?",
            "leave_city_out.json?",
            "ablation.json?",
        ),
        sections=("score", "predict", "map", "seed"),
        rooms=("scenes", "scores", "report"),
    ),
    Station(
        name="explain",
        work=explain,
        needs=(
            "scenes.parquet",
            "chips.parquet",
            "model.ckpt",
            "predictions/manifest.json",
            "saliency_check.json?",
        ),
        sections=("explain", "map", "seed"),
        rooms=("data", "model", "relevance", "layers"),
        everywhere=True,
    ),
    Station(
        name="similar",
        work=similar,
        needs=("chips.parquet", "predictions/manifest.json"),
        sections=("similar",),
        rooms=("similarity", "report"),
    ),
    Station(name="map", work=draw_map, needs=("scenes.parquet", "layers"), sections=("map",), rooms=("webmap",)),
    Station(
        name="catalog",
        work=catalog,
        needs=("scenes.parquet", "layers", "model.ckpt?", "metrics.json?", "map.html?", "report.html?"),
        sections=("explain", "map", "catalog"),  # masked images and polygons are explain's, and no layers
        rooms=("layers",),
    ),
)
"""The stations in order."""

APPLIED = tuple(s for s in STATIONS if s.name in ("scan", "cut", "predict", "explain", "map", "catalog"))
"""The stations of a model that is applied to new images."""
