"""A ``Run`` with its tables in; which chips are explained, for which city, and over which polygons, out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dlslicer_geo.errors import ConfigError
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.types import APPROXIMATE

if TYPE_CHECKING:
    import numpy as np
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from dlslicer_geo.types import Predictions

logger = logging.getLogger(__name__)


def on_the_ground(
    run: Run, scenes: GeoDataFrame, chips: GeoDataFrame, found: Predictions, drawn: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The chips whose saliency is laid on the ground, sorted.

    Raises:
        ConfigError: if none of them lies within the polygons that were asked for.
    """
    import numpy as np

    how, ids = run.config.explain, chips["chip_id"].to_numpy(np.int64)
    if how.chips == "drawn":
        chosen = drawn
    elif how.chips == "predicted":
        chosen = np.sort(found.chip_id)
    else:
        inside = chips["scene_id"].isin(set(chips.loc[np.isin(ids, drawn), "scene_id"]))
        chosen = np.sort(ids if how.chips == "all" else ids[inside.to_numpy()])
    return chosen if how.within is None else _within(str(how.within), chosen, scenes, chips, how.chips)


def _within(
    path: str, chosen: NDArray[np.int64], scenes: GeoDataFrame, chips: GeoDataFrame, which: str
) -> NDArray[np.int64]:
    """Those of the chips that touch a polygon, as far as it is known where they lie."""
    import numpy as np

    from dlslicer_geo import layers as gis

    ids = chips["chip_id"].to_numpy(np.int64)
    vague = chips["scene_id"].isin(set(scenes.loc[scenes["georef"].isin(APPROXIMATE), "scene_id"])).to_numpy()
    nowhere = int(vague[np.isin(ids, chosen)].sum())
    if nowhere:
        logger.warning("%d chips lie somewhere in their city only: none of these is within any polygon", nowhere)
    touching = _touching(chips, gis.read_polygons(path)) & ~vague
    within = chosen[np.isin(chosen, ids[touching])]
    if not len(within):
        raise ConfigError(
            f"none of {len(chosen)} chips ({which}) touches {path}: give other polygons, or take explain.chips all"
        )
    return within


def read_zones(run: Run, chips: GeoDataFrame, chosen: NDArray[np.int64]) -> GeoDataFrame | None:
    """The polygons over which relevance is summed up; None where none are asked for.

    Raises:
        ConfigError: if no chip that is explained touches them.
        LayerError: if they cannot be read.
    """
    import numpy as np

    from dlslicer_geo import layers as gis

    path = run.config.explain.polygons
    if path is None:
        return None
    polygons = gis.read_polygons(path)
    mine = chips[np.isin(chips["chip_id"].to_numpy(np.int64), chosen)]
    if not _touching(mine, polygons).any():
        raise ConfigError(
            f"none of {len(mine)} chips ({run.config.explain.chips}) touches explain.polygons, {path}: give other "
            "polygons, or take explain.chips all"
        )
    return polygons


def _touching(chips: GeoDataFrame, polygons: GeoDataFrame) -> NDArray[np.bool_]:
    """Whether each chip touches a polygon."""
    import numpy as np

    found = np.zeros(len(chips), bool)
    found[chips.sindex.query(polygons.geometry.to_crs(4326), predicate="intersects")[1]] = True
    return found


def target_of(
    run: Run, classifier: Any, data: Any, found: Predictions, chosen: NDArray[np.int64]
) -> str | dict[str, str]:
    """What is explained: as configured, and for ``predicted`` the most probable city of every scene."""
    import pandas as pd

    from dlslicer_geo.relevance import predicted_cities

    if run.config.explain.target != "predicted":
        return run.config.explain.target
    mean = pd.DataFrame(found.probabilities).groupby(found.scene_id).mean()
    best = mean.to_numpy().argmax(axis=1)
    cities = {str(scene): found.cities[i] for scene, i in zip(mean.index, best, strict=True)}
    scene_of = data.chips.set_index("chip_id")["scene_id"].loc[chosen]
    others = chosen[~scene_of.isin(set(cities)).to_numpy()]
    return cities | (predicted_cities(classifier, data, others, progress=run.progress) if len(others) else {})
