"""Which city is this, and which streets gave it away: geospatial DL-SLICER.

Names are loaded when they are first used, so that ``import dlslicer_geo`` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_DOORS = {
    "scan": "scenes", "cut": "chips", "split": "splits", "verify": "splits", "measure": "splits",
    "violations": "splits", "regions": "splits", "verify_run": "pipeline.checks", "ablate": "pipeline.studies",
    "leave_city_out": "pipeline.studies", "probe": "probes", "write_report": "report",
    "ChipDataModule": "data",
    "ChipDataset": "data", "ChipSampler": "data", "SceneDataset": "data", "CityClassifier": "model",
    "load": "model", "fit": "pipeline", "apply": "pipeline", "run": "pipeline", "import_checkpoint": "pipeline",
    "download": "download", "predict": "predict", "read_predictions": "predict", "score": "scores",
    "explain": "relevance", "relevance_maps": "relevance", "summarize": "relevance.summaries",
    "by_polygon": "layers", "write_predictions": "layers", "write_saliency": "layers", "similar": "similarity",
    "webmap": "webmap", "ChipGrid": "types", "Reading": "types", "Channels": "types", "SplitRule": "types",
    "Scene": "types", "Predictions": "types", "Saliency": "types", "Layer": "types", "Report": "types",
    "DlslicerError": "errors",
}  # fmt: skip

__all__ = sorted([*_DOORS, "__version__"])

if TYPE_CHECKING:
    from dlslicer_geo.chips import cut as cut
    from dlslicer_geo.data import ChipDataModule as ChipDataModule
    from dlslicer_geo.data import ChipDataset as ChipDataset
    from dlslicer_geo.data import ChipSampler as ChipSampler
    from dlslicer_geo.data import SceneDataset as SceneDataset
    from dlslicer_geo.download import download as download
    from dlslicer_geo.errors import DlslicerError as DlslicerError
    from dlslicer_geo.layers import by_polygon as by_polygon
    from dlslicer_geo.layers import write_predictions as write_predictions
    from dlslicer_geo.layers import write_saliency as write_saliency
    from dlslicer_geo.model import CityClassifier as CityClassifier
    from dlslicer_geo.model import load as load
    from dlslicer_geo.pipeline import apply as apply
    from dlslicer_geo.pipeline import fit as fit
    from dlslicer_geo.pipeline import import_checkpoint as import_checkpoint
    from dlslicer_geo.pipeline import run as run
    from dlslicer_geo.pipeline.checks import verify_run as verify_run
    from dlslicer_geo.pipeline.studies import ablate as ablate
    from dlslicer_geo.pipeline.studies import leave_city_out as leave_city_out
    from dlslicer_geo.predict import predict as predict
    from dlslicer_geo.predict import read_predictions as read_predictions
    from dlslicer_geo.probes import probe as probe
    from dlslicer_geo.relevance import explain as explain
    from dlslicer_geo.relevance import relevance_maps as relevance_maps
    from dlslicer_geo.relevance.summaries import summarize as summarize
    from dlslicer_geo.report import write_report as write_report
    from dlslicer_geo.scenes import scan as scan
    from dlslicer_geo.scores import score as score
    from dlslicer_geo.similarity import similar as similar
    from dlslicer_geo.splits import measure as measure
    from dlslicer_geo.splits import regions as regions
    from dlslicer_geo.splits import split as split
    from dlslicer_geo.splits import verify as verify
    from dlslicer_geo.splits import violations as violations
    from dlslicer_geo.types import Channels as Channels
    from dlslicer_geo.types import ChipGrid as ChipGrid
    from dlslicer_geo.types import Layer as Layer
    from dlslicer_geo.types import Predictions as Predictions
    from dlslicer_geo.types import Reading as Reading
    from dlslicer_geo.types import Report as Report
    from dlslicer_geo.types import Saliency as Saliency
    from dlslicer_geo.types import Scene as Scene
    from dlslicer_geo.types import SplitRule as SplitRule
    from dlslicer_geo.webmap import webmap as webmap


def __getattr__(name: str) -> Any:
    """Load the room a public name lives in (PEP 562)."""
    if name not in _DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_DOORS[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps ``dl.predict``, ``dl.webmap`` ... the functions, although modules of the same names get imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _DOORS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
