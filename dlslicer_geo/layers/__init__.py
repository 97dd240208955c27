"""Predictions and saliency in, files for a GIS and for a paper out: COG, GeoPackage, QGIS styles, figures."""

from dlslicer_geo.layers.blend import Lattice, blend, hann
from dlslicer_geo.layers.gallery import draw_gallery
from dlslicer_geo.layers.gallery_page import write_gallery_page
from dlslicer_geo.layers.geopackage import write_flatgeobuf
from dlslicer_geo.layers.masked import write_masked
from dlslicer_geo.layers.polygons import write_polygons
from dlslicer_geo.layers.portrait import draw_portraits
from dlslicer_geo.layers.predictions import write_predictions
from dlslicer_geo.layers.project import write_project
from dlslicer_geo.layers.saliency import questions_left, saliency_layer, stream_saliency, write_saliency
from dlslicer_geo.layers.stac import write_stac
from dlslicer_geo.layers.stac_model import TrainedModel
from dlslicer_geo.layers.stream import Question
from dlslicer_geo.layers.zones import by_polygon, read_polygons

__all__ = [
    "Lattice",
    "Question",
    "TrainedModel",
    "blend",
    "by_polygon",
    "draw_gallery",
    "draw_portraits",
    "hann",
    "questions_left",
    "read_polygons",
    "saliency_layer",
    "stream_saliency",
    "write_flatgeobuf",
    "write_gallery_page",
    "write_masked",
    "write_polygons",
    "write_predictions",
    "write_project",
    "write_saliency",
    "write_stac",
]
