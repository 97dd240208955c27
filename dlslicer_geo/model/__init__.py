"""A data module in, a trained ``CityClassifier`` and its checkpoint out.

``weights.py`` reads tensors without running code, ``classifier.py`` is the TorchGeo task, ``training.py`` fits it.
"""

from dlslicer_geo.model.classifier import CityClassifier, load
from dlslicer_geo.model.training import fit

__all__ = ["CityClassifier", "fit", "load"]
