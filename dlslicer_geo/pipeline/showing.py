"""A ``Run`` whose layers are written in; the map, the QGIS project and the STAC catalogue out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlslicer_geo.pipeline.readers import optional_json
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.pipeline.steps import Done
from dlslicer_geo.types import Layer

if TYPE_CHECKING:
    from dlslicer_geo.layers import TrainedModel

TRAINED = ("lr", "weight_decay", "optimizer", "schedule", "label_smoothing", "freeze_backbone")
"""What a checkpoint says of its training."""

MEASURED = ("split", "n", "accuracy", "accuracy_interval", "chance")
"""What a catalogue says of how good a model is."""


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
    folder = run.folder / "gis"
    masked, polygons = sorted((folder / "masked").glob("*.tif")), folder / "polygons.gpkg"
    files = gis.write_project(
        layers,
        run.folder / "project.qgz",
        title=title,
        masked=masked,
        polygons=polygons if polygons.exists() else None,
    )
    chips, flat = folder / "predictions.gpkg", folder / "predictions.fgb"
    if run.config.catalog.flatgeobuf and chips.exists():
        files += [gis.write_flatgeobuf(chips, flat), flat.with_suffix(".qml")]
    else:
        for stale in (flat, flat.with_suffix(".qml")):
            stale.unlink(missing_ok=True)
    files += gis.write_stac(
        run.folder, title=title, scenes=run.scenes(), layers=layers, model=_model(run), provenance=run.provenance
    )
    return Done(files=files)


def _layers(run: Run) -> list[Layer]:
    return [Layer(kind="scenes", path=run.folder / "scenes.parquet", title="Scenes"), *run.layers()]


def _model(run: Run) -> TrainedModel | None:
    """What a catalogue says of the model, as its checkpoint has it; None where none was trained here."""
    from dlslicer_geo import layers as gis
    from dlslicer_geo import model as room

    path, certificate = run.folder / "model.ckpt", run.folder / "split_certificate.json"
    if not path.exists():
        return None
    classifier = room.load(path)
    own = classifier.hparams
    metrics = optional_json(run.folder / "metrics.json") or {}
    return gis.TrainedModel(
        path=path,
        name=own["model"],
        cities=classifier.cities,
        input_size=int(own["input_size"]),
        mean=tuple(classifier.mean.flatten().tolist()),
        std=tuple(classifier.std.flatten().tolist()),
        temperature=float(classifier.temperature),
        detector=own["detector"],
        threshold=classifier.threshold,
        parameters=sum(weights.numel() for weights in classifier.model.parameters()),
        pretrained=bool(run.config.model.weights),
        chip=dict(own["chip"]),
        hyperparameters={name: own[name] for name in TRAINED if name in own} | _recipe(run),
        metrics={name: metrics[name] for name in MEASURED if metrics.get(name) is not None},
        certificate=certificate if certificate.exists() else None,
    )


def _recipe(run: Run) -> dict[str, Any]:
    how = run.config.fit
    return {"max_epochs": how.max_epochs, "batch_size": how.batch_size, "seed": run.config.seed}
