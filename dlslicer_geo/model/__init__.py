"""A data module in, a trained ``CityClassifier`` and its checkpoint out.

``weights.py`` reads tensors without running code, ``classifier.py`` is the TorchGeo task, ``training.py`` fits it,
``running.py`` lets it predict, ``dense.py`` does so for overlapping chips at once, ``unknown.py`` says what it does
not know.
"""

from dlslicer_geo.model.classifier import CityClassifier, load
from dlslicer_geo.model.running import placed
from dlslicer_geo.model.training import fit
from dlslicer_geo.model.unknown import remember, seal

__all__ = ["CityClassifier", "fit", "load", "placed", "remember", "seal"]
