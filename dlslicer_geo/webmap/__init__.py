"""Layers in, one self-contained HTML map out: nothing in it asks any network for anything."""

from dlslicer_geo.webmap.content import webmap
from dlslicer_geo.webmap.page import WebMap

__all__ = ["WebMap", "webmap"]
