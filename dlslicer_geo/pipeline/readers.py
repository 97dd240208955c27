"""Paths in, the tables and predictions of other runs and of users out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.errors import ConfigError, TableError
from dlslicer_geo.files import read_json

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame

    from dlslicer_geo.types import Predictions

WINDOW = ["scene_id", "row", "col", "height", "width"]
"""What makes a chip the same chip in two runs."""


def read_given(path: str | Path) -> DataFrame:
    """The file of ``split.given``: polygons, or a table.

    Raises:
        ConfigError: if it cannot be read, has no column ``split``, two of them, or several layers.
    """
    import geopandas as gpd
    import pandas as pd
    from shapely.errors import ShapelyError

    file, kind = Path(path), Path(path).suffix.lower()
    try:
        if kind == ".csv":
            table: DataFrame = pd.read_csv(file, dtype=str)
        elif kind in (".parquet", ".geoparquet"):
            table = _read_parquet(file)
        else:
            _check_layers(file)
            table = gpd.read_file(file)
    except (OSError, ValueError, RuntimeError, ShapelyError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"split.given is {file}, which cannot be read as a table ({said}): give another") from None
    if "split" not in table.columns:
        said = ", ".join(map(str, table.columns))[:200]
        raise ConfigError(f"{file} has the columns {said} and no column split: add it")
    if "split.1" in table.columns:  # as pandas calls the second of two
        raise ConfigError(f"{file} has two columns split: keep one")
    return table


def _check_layers(file: Path) -> None:
    import geopandas as gpd

    layers = gpd.list_layers(file)["name"].tolist()
    if len(layers) > 1:
        raise ConfigError(f"{file} has {len(layers)} layers ({', '.join(layers)[:200]}): give a file with one")


def _read_parquet(file: Path) -> DataFrame:
    import geopandas as gpd
    import pandas as pd
    import pyarrow.parquet as pq

    spatial = b"geo" in (pq.read_schema(file).metadata or {})
    table: DataFrame = gpd.read_parquet(file) if spatial else pd.read_parquet(file)
    return table


def other_run(folder: str | Path, chips: GeoDataFrame) -> tuple[str, Predictions]:
    """The name and the predictions of another run for the chips that both have, under this run's chip numbers.

    A chip that is in another split there is none that both have: the other model may have been trained on it.

    Raises:
        TableError: if the two have predicted no chip in common.
    """
    import numpy as np

    from dlslicer_geo.chips import COLUMNS
    from dlslicer_geo.files import read_table
    from dlslicer_geo.predict import read_predictions

    root = Path(folder)
    theirs, found = read_table(root / "chips.parquet", COLUMNS), read_predictions(root / "predictions")
    same = [*WINDOW, "split"]
    own = chips[[*same, "chip_id"]].rename(columns={"chip_id": "mine"})
    number = theirs[["chip_id", *same]].merge(own, on=same, how="left").set_index("chip_id")["mine"]
    mine = number.reindex(found.chip_id).to_numpy(np.float64)
    keep = np.isfinite(mine)
    if not keep.any():
        raise TableError(
            f"{root} has predicted none of these chips in the same split: compare runs over the same scenes, chip "
            "grid and split"
        )
    return root.name, found.select(keep, chip_id=mine[keep].astype(np.int64))


def optional_table(path: Path) -> DataFrame | None:
    """A table that may not be there."""
    import pandas as pd

    return pd.read_parquet(path) if path.exists() else None


def optional_json(path: Path) -> dict[str, Any] | None:
    """JSON that may not be there."""
    return dict(read_json(path)) if path.exists() else None
