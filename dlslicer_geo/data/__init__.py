"""Scene table and chip table in, TorchGeo datasets, samplers, a store and a Lightning data module out.

One dataset per scene: a single TorchGeo ``RasterDataset`` over several UTM zones would warp every scene to the first
one's CRS. Chips of all scenes are mixed by number, and that number, ``chip_id``, travels with every batch.

::

    chips   any chip from its scene's raster      layout, shelf, store   the same pixels, kept for training
    strips  all chips of a scene in one pass      samplers, module       in which order, for Lightning
"""

from dlslicer_geo.data.chips import UNKNOWN, ChipDataset
from dlslicer_geo.data.images import flip, resize
from dlslicer_geo.data.module import ChipDataModule
from dlslicer_geo.data.samplers import BalancedSampler, ChipSampler, ShuffledSampler
from dlslicer_geo.data.scenes import SceneDataset, SceneReader
from dlslicer_geo.data.store import Stored, write_store

__all__ = [
    "UNKNOWN", "BalancedSampler", "ChipDataModule", "ChipDataset", "ChipSampler", "SceneDataset", "SceneReader",
    "ShuffledSampler", "Stored", "flip", "resize", "write_store",
]  # fmt: skip
