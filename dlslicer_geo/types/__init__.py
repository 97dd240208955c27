"""The values that pass between rooms: frozen, slotted, keyword-only; no input, no output."""

from dlslicer_geo.types.inputs import (
    APPROXIMATE,
    APPROXIMATE_NOTE,
    Channels,
    Compute,
    Progress,
    Reading,
    Scene,
    channels_of,
    quiet,
)
from dlslicer_geo.types.results import DETECTORS, UNKNOWN, Layer, Predictions, Report, Saliency, bilinear
from dlslicer_geo.types.rules import SPLITS, ChipGrid, SplitRule

__all__ = [
    "APPROXIMATE", "APPROXIMATE_NOTE", "DETECTORS", "SPLITS", "UNKNOWN", "Channels", "ChipGrid", "Compute",
    "Layer", "Predictions", "Progress", "Reading", "Report", "Saliency", "Scene", "SplitRule", "bilinear",
    "channels_of", "quiet",
]  # fmt: skip
