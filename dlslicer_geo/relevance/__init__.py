"""A model and chips in; raw saliency per chip and depth out, with the windows that place it on the ground.

Six methods under one door: Relevance-CAM with the published start, a contrastive start and a margin start (the
default), and Grad-CAM, HiResCAM and LayerCAM to compare with. The published start hardly depends on the classifier
when there are few cities; on planted patches plain Grad-CAM and HiResCAM do at least as well as any of the three.
"""

from dlslicer_geo.relevance.maps import DEFAULT, METHODS, relevance_maps
from dlslicer_geo.relevance.saliency import Explainer, explain, predicted_cities

__all__ = ["DEFAULT", "METHODS", "Explainer", "explain", "predicted_cities", "relevance_maps"]
