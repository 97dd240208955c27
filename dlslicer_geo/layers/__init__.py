"""Predictions and saliency in, files for a GIS and for a paper out: COG, GeoPackage, QGIS styles, figures."""

from dlslicer_geo.layers.blend import Lattice, blend, hann
from dlslicer_geo.layers.figures import draw_gallery
from dlslicer_geo.layers.predictions import write_predictions
from dlslicer_geo.layers.saliency import write_saliency
from dlslicer_geo.layers.styles import PALETTE, city_colour

__all__ = [
    "PALETTE",
    "Lattice",
    "blend",
    "city_colour",
    "draw_gallery",
    "hann",
    "write_predictions",
    "write_saliency",
]
