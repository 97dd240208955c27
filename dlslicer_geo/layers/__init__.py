"""Predictions and saliency in, files for a GIS and for a paper out: COG, GeoPackage, QGIS styles, figures."""

from dlslicer_geo.layers.blend import Lattice, blend, hann
from dlslicer_geo.layers.gallery import draw_gallery
from dlslicer_geo.layers.gallery_page import write_gallery_page
from dlslicer_geo.layers.masked import write_masked
from dlslicer_geo.layers.polygons import write_polygons
from dlslicer_geo.layers.portrait import draw_portraits
from dlslicer_geo.layers.predictions import write_predictions
from dlslicer_geo.layers.saliency import questions_left, saliency_layer, stream_saliency, write_saliency
from dlslicer_geo.layers.stream import Question
from dlslicer_geo.layers.zones import by_polygon, read_polygons

__all__ = [
    "Lattice",
    "Question",
    "blend",
    "by_polygon",
    "draw_gallery",
    "draw_portraits",
    "hann",
    "questions_left",
    "read_polygons",
    "saliency_layer",
    "stream_saliency",
    "write_gallery_page",
    "write_masked",
    "write_polygons",
    "write_predictions",
    "write_saliency",
]
