"""A ``Run`` whose layers are written in; the map, the QGIS project and the STAC catalogue out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlslicer_geo.pipeline.readers import optional_json
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.pipeline.steps import Done
from dlslicer_geo.types import Layer


def draw_map(run: Run) -> Done:
    """Every layer written so far → ``map.html``, and what is too large for it → ``map/*.pmtiles``."""
    from dlslicer_geo.webmap import webmap

    how = run.config.map
    options: dict[str, Any] = {"title": how.title, "budget_mb": how.budget_mb, "basemaps": how.basemaps}
    made = webmap(_layers(run), **options, progress=run.progress)
    return Done(files=made.save(run.folder / "map.html"))


def catalog(run: Run) -> Done:
    """Every layer written so far → ``project.qgz``, ``catalog.json`` and ``stac/``."""
    from dlslicer_geo import layers as gis

    layers, title = _layers(run), run.config.map.title
    files = [gis.write_project(layers, run.folder / "project.qgz", title=title)]
    files += gis.write_stac(
        run.folder, title=title, scenes=run.scenes(), layers=layers, model=_model(run), provenance=run.provenance
    )
    flat = run.folder / "gis" / "predictions.fgb"
    if run.config.catalog.flatgeobuf:
        files.append(gis.write_flatgeobuf(run.folder / "gis" / "predictions.gpkg", flat))
    else:
        flat.unlink(missing_ok=True)
    return Done(files=files)


def _layers(run: Run) -> list[Layer]:
    return [Layer(kind="scenes", path=run.folder / "scenes.parquet", title="Scenes"), *run.layers()]


def _model(run: Run) -> dict[str, Any] | None:
    """What a catalogue says of the model; None where none was trained here."""
    path: Path = run.folder / "model.ckpt"
    if not path.exists():
        return None
    return {"path": path, "name": run.config.model.name, "metrics": optional_json(run.folder / "metrics.json")}
