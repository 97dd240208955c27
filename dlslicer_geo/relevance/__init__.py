"""A model and chips in; raw saliency per chip and depth out, with the windows that place it on the ground.

Seven methods under one door: Relevance-CAM with the published start and with a contrastive, a balanced and a margin
one (the default), and Grad-CAM, HiResCAM and LayerCAM to compare with. The published start hardly depends on the
classifier when there are few cities. ``benchmarks/relevance.md`` has what each finds of planted patches, and
:mod:`dlslicer_geo.relevance.check` measures it on a model of one's own.
"""

from dlslicer_geo.relevance.maps import DEFAULT, METHODS, relevance_maps
from dlslicer_geo.relevance.saliency import Explainer, explain, predicted_cities

__all__ = ["DEFAULT", "METHODS", "Explainer", "explain", "predicted_cities", "relevance_maps"]
