"""A configuration, or a model and images, in; a filled run folder out. Knows the order, does no work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.config import Config, DataConfig, ExplainConfig, MapConfig, PredictConfig
from dlslicer_geo.errors import ConfigError, ModelError
from dlslicer_geo.pipeline.runs import Run, check_paths, execute
from dlslicer_geo.pipeline.stations import APPLIED, STATIONS
from dlslicer_geo.types import ChipGrid, Progress, quiet

if TYPE_CHECKING:
    from dlslicer_geo.model import CityClassifier

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
        out: run folder.
        stations: names of what to do.
        force: do it even where nothing has changed.
        progress: shows how far long work is.

    Raises:
        DlslicerError: whatever a station raises.
    """
    check_paths(config)
    made = Run(config=config, folder=Path(out), progress=progress)
    return execute(made, [s for s in STATIONS if s.name in stations], force=force)


def apply(
    model: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    force: bool = False,
    progress: Progress = quiet,
) -> Run:
    """Use a trained model on new images: predictions, saliency and a map in one folder.

    The images need a position but no city. Chips are cut as the model was trained, at half overlap.

    Args:
        model: a checkpoint, or a run folder that holds ``model.ckpt``.
        images: GeoTIFFs and folders of GeoTIFFs.
        out: folder for everything that is made.
        force: do it even where nothing has changed.
        progress: shows how far long work is.

    Raises:
        ConfigError: if an image does not exist, or ``out`` holds an experiment.
        ModelError: if the model cannot be used.
    """
    given = tuple(Path(image) for image in images)
    lacking = [str(path) for path in given if not path.exists()]
    if lacking or not given:
        raise ConfigError(f"{', '.join(lacking) or 'no image'} does not exist: give GeoTIFFs or folders of GeoTIFFs")
    if (Path(out) / "split_certificate.json").exists():
        raise ConfigError(f"{out} is the run folder of an experiment, whose tables would be lost: give --out another")
    checkpoint = Path(model) / "model.ckpt" if Path(model).is_dir() else Path(model)
    config = Config(
        data=DataConfig(root=str(given[0].parent.absolute()), pattern=None),
        chips=_grid_of(checkpoint),
        predict=PredictConfig(split="all"),
        explain=ExplainConfig(scenes="all"),
        map=MapConfig(title=f"What {Path(model).name} sees in {given[0].stem}"),
    )
    made = Run(config=config, folder=Path(out), model_path=checkpoint, images=given, progress=progress)
    return execute(made, APPLIED, force=force)


def fit(model: CityClassifier, data: Any, **options: Any) -> CityClassifier:
    """Prove the split, then train: :func:`dlslicer_geo.model.fit` behind the leak check.

    Args:
        model: the classifier.
        data: a ``ChipDataModule``.
        options: ``max_epochs``, ``out``, ``views``, ``early_stopping``, ``loggers``, ``seed``, ``progress``.

    Raises:
        LeakError: if two splits share ground, pixels or images, naming the two chips.
        SplitError: if the chips are not split.
    """
    from dlslicer_geo import model as room
    from dlslicer_geo import splits

    splits.verify(data.chips, scenes=data.scenes)
    return room.fit(model, data, **options)


def _grid_of(checkpoint: Path) -> ChipGrid:
    from dlslicer_geo import model as room

    chip = dict(room.load(checkpoint).hparams["chip"])
    if "size" not in chip:
        raise ModelError(f"{checkpoint} does not say what chips it was trained on: train again, or set chip=")
    size = int(chip["size"])
    return ChipGrid(size=size, stride=max(1, size // 2), metres=chip["metres"])
