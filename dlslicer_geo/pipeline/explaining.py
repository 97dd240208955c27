"""A ``Run`` in; the sanity of its explanations, saliency on the ground, galleries and summaries out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.files import read_json, sha256_file, sha256_json, write_json, write_table, write_text
from dlslicer_geo.pipeline import ranks
from dlslicer_geo.pipeline.chosen import on_the_ground, read_zones, target_of
from dlslicer_geo.pipeline.laying import TOGETHER, lay, noted, sanity, together
from dlslicer_geo.pipeline.pieces import captions, city_names, data_module, image_layers, images
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.pipeline.steps import Done
from dlslicer_geo.types import Layer, Scene

if TYPE_CHECKING:
    import numpy as np
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from pandas import DataFrame

    from dlslicer_geo.relevance import Explainer
    from dlslicer_geo.types import Predictions

logger = logging.getLogger(__name__)

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
    with room.placed(classifier, run.config.compute.accelerator):
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """What is explained.

    Args:
        asking: the model with its question.
        scenes: scene table.
        chips: chip table.
        found: predictions.
        drawn: chips of the gallery.
        chosen: chips that are laid on the ground.
        polygons: areas over which relevance is summed up.
    """

    asking: Explainer
    scenes: GeoDataFrame
    chips: GeoDataFrame
    found: Predictions
    drawn: NDArray[np.int64]
    chosen: NDArray[np.int64]
    polygons: GeoDataFrame | None


def explain(run: Run) -> Done:
    """Model and chips → saliency COGs, galleries, portraits, and summaries per chip, city and polygon.

    Every process explains its share of the scenes; the first one then gathers, and does what one that was lost has
    left.
    """
    from dlslicer_geo import model as room

    classifier = room.load(run.checkpoint)
    with room.placed(classifier, run.config.compute.accelerator):
        subject = _subject(run, classifier)
        work = ranks.first(lambda: _begin(run, subject.asking))
        groups = together(subject.chips, subject.chosen)
        rank, world = ranks.rank_and_world()
        laid = dict(lay(run, subject.asking, groups[rank::world], work))
        ranks.wait()
        if rank:
            return Done(files=[])
        if world > 1:  # what the others wrote is there
            laid = dict(lay(run, subject.asking, groups, work))
        return _gathered(run, subject, laid, work)


def _subject(run: Run, classifier: Any) -> Subject:
    """Find out what is asked; whatever is wrong with it is said before anything is lost."""
    from dlslicer_geo import relevance
    from dlslicer_geo.predict import read_predictions

    how, scenes, chips = run.config.explain, run.scenes(), run.chips()
    data = data_module(run, scenes, chips, cities=classifier.cities)
    found = read_predictions(run.folder / "predictions")
    drawn = found.draw(how.per_city, seed=run.config.seed)
    chosen = on_the_ground(run, scenes, chips, found, drawn)
    polygons = read_zones(run, chips, chosen)
    asking = relevance.Explainer(
        classifier, data, layers=how.layers, method=how.method, precision=how.precision,
        target=ranks.first(lambda: target_of(run, classifier, data, found, chosen)),
        rather_than=how.rather_than or "",
    )  # fmt: skip
    asking.check(chosen)
    return Subject(
        asking=asking, scenes=scenes, chips=chips, found=found, drawn=drawn, chosen=chosen, polygons=polygons
    )


def _gathered(run: Run, subject: Subject, laid: Mapping[str, Layer], work: Path) -> Done:
    """Everything that is made of the saliency of all scenes."""
    asking, layers = subject.asking, list(laid.values())
    table, files = _summaries(run, asking, subject.chosen, work)
    files += _zones(run, layers, subject.polygons)
    files += _masked(run, laid, subject.scenes)
    _sweep(run, [layer.path for layer in layers])
    files += _pictures(run, asking, table, subject.found, subject.drawn)
    imagery = image_layers(subject.scenes, subject.chips, subject.chosen) if run.config.map.imagery else []
    rasters = [path for layer in layers for path in (layer.path, layer.path.with_suffix(".qml"))]
    return Done(files=[*files, *rasters], layers=[*imagery, *layers])


def _begin(run: Run, asking: Explainer) -> Path:
    """The folder for summaries of these very answers; those of others are removed, and all if work is forced."""
    folder = run.folder / "explain"
    if run.force:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(run.folder / "gis" / "saliency", ignore_errors=True)
    question = {"notes": asking.notes, "target": asking.target, "rather_than": asking.rather_than}
    question["sanity"] = sanity(run, asking)  # a file that knows nothing of the check is made again
    identity = sha256_json(
        [question, asking.method, asking.layers, run.answers_from("explain", "data", "model", "relevance", "layers")]
    )
    for other in folder.glob("*"):
        if other.name != identity:
            shutil.rmtree(other)
    return folder / identity


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
    for why in asking.stream(np.split(lost, range(TOGETHER, len(lost), TOGETHER)) if len(lost) else []):
        noted(why, work)
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
        path = gis.write_masked(layer.path, shown, out, provenance=run.provenance)
        files += [path, path.with_suffix(".qml")]
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
