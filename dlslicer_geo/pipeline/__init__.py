"""A configuration, or a model and images, in; a filled run folder out. Knows the order, does no work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dlslicer_geo.config import Config, DataConfig, ExplainConfig, MapConfig, PredictConfig, is_address
from dlslicer_geo.errors import ConfigError, ModelError
from dlslicer_geo.pipeline.calibration import calibrate
from dlslicer_geo.pipeline.mirror import mirrored
from dlslicer_geo.pipeline.paths import check_paths
from dlslicer_geo.pipeline.runs import Run, execute
from dlslicer_geo.pipeline.stations import APPLIED, STATIONS
from dlslicer_geo.scenes.sources import redact
from dlslicer_geo.types import ChipGrid, Compute, Progress, Reading, quiet

if TYPE_CHECKING:
    from dlslicer_geo.model import CityClassifier

DL_SLICER_CHIP = {"size": 480, "stride": 240, "metres": 200.0}
"""The chips of the published models."""

VERBS = tuple(station.name for station in STATIONS)
"""The stations' names, in order."""


def run(
    config: Config,
    out: str | Path,
    *,
    stations: Sequence[str] = VERBS,
    force: bool = False,
    progress: Progress = quiet,
) -> Run:
    """Do stations of an experiment, in order, skipping what is up to date.

    Args:
        config: the experiment.
        out: run folder, or its address on object storage (``s3://bucket/run``).
        stations: names of what to do.
        force: do it even where nothing has changed.
        progress: shows how far long work is.

    Raises:
        DlslicerError: whatever a station raises.
    """
    check_paths(config)
    with mirrored(out, config.compute) as folder:
        made = Run(config=config, folder=folder, progress=progress)
        return execute(made, [s for s in STATIONS if s.name in stations], force=force)


def apply(
    model: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    reading: Reading | None = None,
    explain: ExplainConfig | None = None,
    compute: Compute | None = None,
    force: bool = False,
    progress: Progress = quiet,
) -> Run:
    """Use a trained model on new images: predictions, saliency and a map in one folder.

    The images need a position but no city. Chips are cut as the model was trained, at half overlap, and their pixels
    read with the bands and the scaling it was trained with, unless ``reading`` says otherwise.

    Args:
        model: a checkpoint, or a run folder that holds ``model.ckpt``; here or on object storage.
        images: images, folders, list files, addresses: whatever :func:`dlslicer_geo.scan` takes.
        out: folder for everything that is made, or its address.
        reading: how the images become scenes.
        explain: what is explained, and how; None explains every chip for the city that its scene is called.
        compute: where the work is done.
        force: do it even where nothing has changed.
        progress: shows how far long work is.

    Raises:
        ConfigError: if an image does not exist, or ``out`` holds an experiment.
        ModelError: if the model cannot be used.
    """
    given = tuple(str(image) for image in images)
    lacking = [path for path in given if not is_address(path) and not Path(path).exists()]
    if lacking or not given:
        raise ConfigError(f"{', '.join(lacking) or 'no image'} does not exist: give images or folders of images")
    where = compute or Compute()
    checkpoint = _checkpoint(model, where)
    said = Config(
        explain=explain or ExplainConfig(chips="predicted"),
        predict=PredictConfig(split="all"),
        compute=where,
        map=MapConfig(title=f"What {Path(redact(str(model))).name} sees in {PurePosixPath(redact(given[0])).stem}"),
        **_as_trained(checkpoint, reading or Reading(), given[0]),
    )
    check_paths(said)
    with mirrored(out, where) as folder:
        if (folder / "split_certificate.json").exists():
            shown = redact(str(out))
            raise ConfigError(
                f"{shown} is an experiment's run folder, whose tables would be lost: give --out another"
            )
        made = Run(config=said, folder=folder, model_path=checkpoint, images=given, progress=progress)
        return execute(made, APPLIED, force=force)


def fit(model: CityClassifier, data: Any, **options: Any) -> CityClassifier:
    """Prove the split, train, and calibrate: :func:`dlslicer_geo.model.fit` behind the leak check.

    Args:
        model: the classifier.
        data: a ``ChipDataModule``.
        options: ``max_epochs``, ``out``, ``views``, ``early_stopping``, ``ema``, ``loggers``, ``seed``, ``progress``,
            and ``detector`` of unknown cities (``knn``, ``softmax``, ``energy``).

    Raises:
        LeakError: if two splits share ground, pixels or images, naming the two chips.
        SplitError: if the chips are not split.
    """
    from dlslicer_geo import model as room
    from dlslicer_geo import splits

    splits.verify(data.chips, scenes=data.scenes)
    shared = {"seed": options.get("seed", 0), "progress": options.get("progress", quiet)}
    detector = options.pop("detector", "knn")
    fitted = room.fit(model, data, **options)
    calibrate(fitted, data, Path(options.get("out", "runs/fit")) / "model.ckpt", detector=detector, **shared)
    return fitted


def import_checkpoint(checkpoint: str | Path, out: str | Path, *, cities: str | Path | None = None) -> Path:
    """Turn a checkpoint of the DL-SLICER authors into a ``model.ckpt``, without running anything that is in it.

    Args:
        checkpoint: the authors' file.
        out: folder for ``model.ckpt``.
        cities: list of cities whose order is that of the outputs; None takes the 45 of DL-SLICER.

    Raises:
        ConfigError: if the list of cities cannot be read.
        ModelError: if the file is no such checkpoint, naming what was found.
    """
    from dlslicer_geo.model.imports import import_checkpoint as convert
    from dlslicer_geo.scenes import city_order

    codes = city_order(cities, "dl-slicer") or []
    return convert(checkpoint, out, cities=codes, chip=DL_SLICER_CHIP)


def _checkpoint(model: str | Path, compute: Compute) -> Path:
    """The file of a model; of one on object storage a copy."""
    path = Path(model)
    if is_address(str(model)):
        place, name = str(model).rstrip("/"), "model.ckpt"
        if place.endswith(".ckpt"):
            place, _, name = place.rpartition("/")
        with mirrored(place, compute, only=(name, "saliency_check.json")) as folder:
            path = folder / name
        if not path.exists():
            raise ModelError(f"{redact(place)} holds no {name}: give the address of a run that has trained a model")
    return path / "model.ckpt" if path.is_dir() else path


def _as_trained(checkpoint: Path, reading: Reading, first: str) -> dict[str, Any]:
    """How images are read and chips are cut for a model."""
    chip = _chip_of(checkpoint)
    size, root = int(chip["size"]), first if is_address(first) else str(Path(first).parent.absolute())
    grid = ChipGrid(size=size, stride=max(1, size // 2), metres=chip["metres"])
    return {"data": _reading(reading, chip, root), "chips": grid}


def _chip_of(checkpoint: Path) -> dict[str, Any]:
    """What the model says about the chips it was trained on."""
    from dlslicer_geo import model as room

    chip = dict(room.load(checkpoint).hparams["chip"])
    size, metres = chip.get("size"), chip.get("metres", "")
    if not isinstance(size, int) or not isinstance(metres, int | float | None):
        raise ModelError(f"{checkpoint} does not say what chips it was trained on: train again, or set chip=")
    return chip


def _reading(asked: Reading, chip: dict[str, Any], root: str) -> DataConfig:
    """How images are read for a model: what was asked for, else what it was trained with."""
    plain = {field.name: getattr(asked, field.name) for field in dataclasses.fields(Reading)}
    plain["bands"] = asked.bands or (tuple(chip["bands"]) if chip.get("bands") else None)
    if asked.scaling == "auto" and chip.get("low"):
        plain["scaling"] = tuple(zip(chip["low"], chip["high"], strict=True))
    if isinstance(asked, DataConfig):
        plain |= {"pattern": asked.pattern, "cities": asked.cities, "on_bad": asked.on_bad}
    return DataConfig(**({"pattern": None} | plain), root=root)
