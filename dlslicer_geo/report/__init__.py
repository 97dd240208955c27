"""A report, its chips and its certificate in, one page that explains them and its figures out."""

from dlslicer_geo.report.likeness import draw_similarity
from dlslicer_geo.report.matrix import draw_confusion
from dlslicer_geo.report.page import FIGURES, write_report
from dlslicer_geo.report.whiskers import draw_ablation

__all__ = ["FIGURES", "draw_ablation", "draw_confusion", "draw_similarity", "write_report"]
