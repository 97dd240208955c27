"""The values that pass between rooms: frozen, slotted, keyword-only; no input, no output."""

from dlslicer_geo.types.inputs import (
    APPROXIMATE,
    APPROXIMATE_NOTE,
    SPLITS,
    Channels,
    ChipGrid,
    Progress,
    Reading,
    Scene,
    SplitRule,
    channels_of,
    quiet,
)
from dlslicer_geo.types.results import Layer, Predictions, Report, Saliency

__all__ = [
    "APPROXIMATE", "APPROXIMATE_NOTE", "SPLITS", "Channels", "ChipGrid", "Layer", "Predictions", "Progress",
    "Reading", "Report", "Saliency", "Scene", "SplitRule", "channels_of", "quiet",
]  # fmt: skip
