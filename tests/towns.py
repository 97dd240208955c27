"""Small cities that differ by colour in, images of them and an experiment file that trains in a second out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

TOWNS = {
    "almaty": ("EPSG:32643", 650_000.0),
    "bishop": ("EPSG:32611", 400_000.0),
    "new_york": ("EPSG:32618", 580_000.0),
}
"""Their UTM zones and eastings; the first is red, the second green, the third blue."""

EXPERIMENT = """\
data: {root: scenes}
chips: {size: 64, stride: 32, metres: 128}
split: {kind: site, fractions: [0.5, 0.25, 0.25]}
model: {name: test_resnet, weights: false, input_size: 64}
fit: {max_epochs: 4, batch_size: 16}
predict: {split: test, embedding: false}
probe: {changes: [grey, colour only], frozen_baseline: false}
"""


def build(
    folder: Path,
    *,
    towns: Sequence[str] = tuple(TOWNS),
    sites: int = 4,
    years: Sequence[int] = (2020,),
    pixels: int = 160,
) -> Path:
    """Write ``scenes/<town>_<year>_<site>.tif`` of 2 m and ``tiny.yaml``, whose path it gives back."""
    for at, town in enumerate(TOWNS):
        for year in years if town in towns else ():
            for site in range(sites):
                image = np.random.default_rng([at, site, year]).integers(0, 90, (3, pixels, pixels), dtype=np.uint8)
                image[at] += 120
                _write(folder / "scenes" / f"{town}_{year}_{site}.tif", image, *TOWNS[town], site)
    (folder / "tiny.yaml").write_text(EXPERIMENT)
    return folder / "tiny.yaml"


def _write(
    path: Path, image: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]], crs: str, x: float, site: int
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = Affine(2, 0, x + 4000 * site + 0.3, 0, -2, 4_700_000.1)
    _, height, width = image.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=height, width=width, dtype="uint8", crs=crs, transform=grid
    ) as target:
        target.write(image)
