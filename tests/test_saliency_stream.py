"""Saliency of scenes of any size: little memory, nothing asked twice, the same file after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from layer_tables import grid_at
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer
from rio_cogeo.cogeo import cog_validate
from scipy import ndimage

from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import Question, stream_saliency
from dlslicer_geo.types import Saliency

ASKED = Question(scene="almaty", city="chico", method="grad-cam", layers=("layer2", "layer4"), identity="abc")
GRID = grid_at("EPSG:32643", 653_000, 4_791_000, (2400, 4800), 0.5)


def cut(shape: tuple[int, int], *, size: int = 120, stride: int = 60) -> pd.DataFrame:
    """All chips of a scene, numbered from 1000 on, in rows and columns."""
    rows, cols = (np.arange(0, length - size + 1, stride) for length in shape)
    row, col = (values.ravel() for values in np.meshgrid(rows, cols, indexing="ij"))
    window = {"row": row, "col": col, "height": size, "width": size, "stride": stride}
    return pd.DataFrame({"chip_id": np.arange(1000, 1000 + len(row)), **window})


@dataclass
class Oracle:
    """Explains a chip by noise drawn from its number, and remembers what it was asked."""

    chips: pd.DataFrame
    grid: GeoBox = GRID
    question: Question = ASKED
    constant: float | None = None
    asked: list[NDArray[np.int64]] = field(default_factory=list)

    def __call__(self, chip_ids: NDArray[np.int64]) -> Saliency:
        self.asked.append(chip_ids)
        back = chip_ids[::-1]  # in any order
        rows = self.chips.set_index("chip_id").loc[back]
        return Saliency(
            method=self.question.method,
            layers=self.question.layers,
            maps={name: self._maps(back, edge) for name, edge in zip(self.question.layers, (8, 2), strict=True)},
            chip_id=back,
            scene_id=(self.question.scene,) * len(back),
            city=(self.question.city,) * len(back),
            windows=rows[["row", "col", "height", "width"]].to_numpy(),
            stride=rows["stride"].to_numpy(),
            grids={self.question.scene: self.grid},
            input_size=64,
            notes={"model": "0f"},
            approximate=(self.question.scene,),
            rather_than=self.question.rather_than,
        )

    def _maps(self, chip_ids: NDArray[np.int64], edge: int) -> NDArray[np.float32]:
        if self.constant is not None:
            return np.full((len(chip_ids), edge, edge), self.constant, np.float32)
        draws = [np.random.default_rng(int(number)).normal(size=(edge, edge)) for number in chip_ids]
        return np.asarray(draws, np.float32)

    @property
    def number(self) -> int:
        return sum(len(part) for part in self.asked)


def laid(oracle: Oracle, shape: tuple[int, int], cell: int) -> list[NDArray[np.float64]]:
    """Every layer on the whole lattice at once: chip by chip, with somebody else's interpolation."""
    weight, totals = np.zeros(shape), [np.zeros(shape) for _ in oracle.question.layers]
    for number, row, col, height, width, _ in oracle.chips.to_numpy():
        y, x = ((np.arange(n) + 0.5) * cell for n in shape)
        rows, cols = (y > row) & (y < row + height), (x > col) & (x < col + width)
        v, u = (y[rows] - row) / height, (x[cols] - col) / width
        share = np.outer(np.sin(np.pi * v) ** 2, np.sin(np.pi * u) ** 2)
        here = np.ix_(rows, cols)
        weight[here] += share
        for total, edge in zip(totals, (8, 2), strict=True):
            at = np.meshgrid(v * edge - 0.5, u * edge - 0.5, indexing="ij")
            values = oracle._maps(np.array([number]), edge)[0].astype(float)
            total[here] += share * ndimage.map_coordinates(values, at, order=1, mode="nearest")
    with np.errstate(invalid="ignore"):
        return [total / weight for total in totals]


def test_a_streamed_file_equals_the_full_array_and_says_how_it_was_made(tmp_path: Path) -> None:
    chips = cut((1230, 1500)).drop([3, 40, 41, 200, 260])
    oracle = Oracle(chips.sample(frac=1, random_state=0))
    sanity = {"head_shuffled": "-0.1"}
    layer = stream_saliency(
        oracle, oracle.chips, tmp_path, question=ASKED, sanity=sanity, provenance={"config": "77"}
    )
    assert oracle.number == len(chips) == len(np.unique(np.concatenate(oracle.asked)))
    assert max(map(len, oracle.asked)) <= 256 and np.array_equal(np.concatenate(oracle.asked), chips["chip_id"])
    assert layer.path.name == "almaty.chico.grad-cam.tif" and layer.approximate
    with rasterio.open(layer.path) as source:
        bands, tags, known = source.read(), source.tags(), source.tags(2)
    for band, full in zip(bands, laid(oracle, (80, 100), 15), strict=False):
        assert np.array_equal(np.isnan(band), np.isnan(full)) and np.nanmax(np.abs(band - full)) <= 1e-6
    assert known["STATISTICS_MEAN"] == f"{np.nanmean(bands[1].astype(float)):.12g}"
    assert float(known["STATISTICS_STDDEV"]) == pytest.approx(np.nanstd(bands[1].astype(float)), rel=1e-9)
    assert float(tags["LIMITS"].split()[1]) == pytest.approx(np.nanpercentile(np.abs(bands[1]), 99), rel=1e-6)
    assert tags["PERCENTILES_OF"] == "all cells" and tags["SANITY_HEAD_SHUFFLED"] == "-0.1"
    assert tags["NOTE_MODEL"] == "0f" and tags["POSITION"].startswith("approximate") and "77" in tags["dlslicer_geo"]
    assert cog_validate(layer.path, strict=True)[:2] == (True, [])
    assert {path.name for path in layer.path.parent.iterdir()} == {layer.path.name, "almaty.chico.grad-cam.qml"}


@pytest.mark.parametrize(("size", "stride"), [(120, 60), (120, 120), (100, 30), (90, 70), (64, 10)])
def test_a_constant_is_a_constant_up_to_holes_and_ragged_edges(tmp_path: Path, size: int, stride: int) -> None:
    chips = cut((700, 1100), size=size, stride=stride)
    kept = chips[np.random.default_rng(size).random(len(chips)) < 0.6]
    layer = stream_saliency(Oracle(kept, constant=0.7), kept, tmp_path, question=ASKED)
    with rasterio.open(layer.path) as source:
        fine, deep, coverage = source.read()
    assert np.array_equal(np.isfinite(fine), coverage > 0) and np.array_equal(np.isfinite(deep), coverage > 0)
    assert max(np.nanmax(np.abs(fine - 0.7)), np.nanmax(np.abs(deep - 0.7))) <= 1e-6
    assert (coverage == 0).any() and coverage.max() >= (2 if stride < size else 1)


@pytest.mark.parametrize("number", [1, 5])
def test_one_chip_and_one_row_of_chips_are_a_file_too(tmp_path: Path, number: int) -> None:
    chips = cut((2400, 4800)).iloc[300 : 300 + number]
    layer = stream_saliency(Oracle(chips, constant=2.0), chips, tmp_path, question=ASKED)
    with rasterio.open(layer.path) as source:
        assert source.shape == (8, 8 + 4 * (number - 1))
        assert np.all(source.read(2) == 2) and source.read(3).max() <= 2
        window = chips[["row", "col"]].to_numpy()[0]
        corner = GRID.affine * (float(window[1]), float(window[0]))
        assert (source.bounds.left, source.bounds.top) == pytest.approx(corner)


PLACES = {
    "Almaty, UTM 43N": (grid_at("EPSG:32643", 653_000, 4_791_000, (4800, 4800), 2000 / 4800), (76.895, 43.245)),
    "New York, UTM 18N": (grid_at("EPSG:32618", 583_000, 4_508_000, (4800, 4800), 0.6), (-73.99, 40.71)),
}


@pytest.mark.parametrize("place", [*PLACES, "Banepa"])
def test_the_centroid_of_a_planted_point_lies_within_a_cell_of_its_true_place(
    tmp_path: Path, data_root: Path, place: str
) -> None:
    grid, (lon, lat) = PLACES.get(place, (None, (85.5231, 27.6324)))
    if grid is None:
        with rasterio.open(data_root / "banepa" / "banepa_oam_z19.tif") as source:
            grid = GeoBox(source.shape, source.transform, source.crs)
    x, y = Transformer.from_crs(4326, str(grid.crs), always_xy=True).transform(lon, lat)
    col, row = ~grid.affine * (x, y)
    chips = cut((int(grid.shape[0]), int(grid.shape[1])), size=480, stride=240)

    class Point(Oracle):
        def _maps(self, chip_ids: NDArray[np.int64], edge: int) -> NDArray[np.float32]:
            edge *= 7
            maps = np.zeros((len(chip_ids), edge, edge), np.float32)
            corners = self.chips.set_index("chip_id").loc[chip_ids, ["row", "col"]].to_numpy()
            at = (np.array([row, col]) - corners) * edge / 480
            inside = ((at >= 0) & (at < edge)).all(axis=1)
            maps[np.flatnonzero(inside), *at[inside].astype(int).T] = 1
            return maps

    layer = stream_saliency(Point(chips, grid=grid), chips, tmp_path, question=ASKED)
    with rasterio.open(layer.path) as source:
        to_degrees = Transformer.from_crs(source.crs.to_wkt(), 4326, always_xy=True)
        for band, cell in ((1, 480 / 56), (2, 480 / 14)):
            values = source.read(band)
            rows, cols = np.nonzero(values > 0)
            weight = values[rows, cols].astype(float)
            centre = np.average(cols + 0.5, weights=weight), np.average(rows + 0.5, weights=weight)
            found = to_degrees.transform(*(source.transform * centre))
            _, _, metres = Geod(ellps="WGS84").inv(lon, lat, *found)
            x0, y0 = grid.affine * (0, 0)
            one = Transformer.from_crs(str(grid.crs), 4326, always_xy=True)
            _, _, pixel = Geod(ellps="WGS84").inv(*one.transform(x0, y0), *one.transform(*(grid.affine * (1, 0))))
            print(f"{place}, band {band}: {metres:.2f} m off, a cell is {cell * pixel:.2f} m")
            assert 0 < weight.size < values.size / 20 and metres <= cell * pixel


def test_what_is_finished_is_not_asked_for_again_and_anything_else_is(tmp_path: Path) -> None:
    chips = cut((600, 600))
    first = stream_saliency(Oracle(chips), chips, tmp_path, question=ASKED)
    again = Oracle(chips)
    assert stream_saliency(again, chips.iloc[::-1], tmp_path, question=ASKED) == first and not again.asked
    before = first.path.read_bytes()
    for question, table in [
        (Question(**fields(ASKED) | {"identity": "other weights"}), chips),
        (Question(**fields(ASKED) | {"identity": ""}), chips),
        (ASKED, chips.iloc[1:]),
    ]:
        oracle = Oracle(table, question=question)
        stream_saliency(oracle, table, tmp_path, question=question)
        assert oracle.number == len(table)
    assert first.path.read_bytes() != before


def test_a_rather_than_b_has_its_own_file_and_words(tmp_path: Path) -> None:
    question = Question(**fields(ASKED) | {"rather_than": "riverside"})
    chips = cut((300, 300))
    layer = stream_saliency(Oracle(chips, question=question), chips, tmp_path, question=question)
    assert layer.path.name == "almaty.chico-rather-than-riverside.grad-cam.tif"
    assert layer.title == "almaty: why chico rather than riverside" and "blue for riverside" in layer.note


def test_answers_about_something_else_are_refused(tmp_path: Path) -> None:
    chips = cut((300, 300))
    with pytest.raises(LayerError, match=r"asked why chico .* and was told why boston"):
        stream_saliency(
            Oracle(chips, question=Question(**fields(ASKED) | {"city": "boston"})), chips, tmp_path, question=ASKED
        )
    short = Oracle(chips)
    with pytest.raises(LayerError, match="asked about 16 chips and was told about 15"):
        stream_saliency(lambda ids: short(ids[1:]), chips, tmp_path, question=ASKED)
    with pytest.raises(LayerError, match="2 strides: explain chips of one cut"):
        stream_saliency(short, chips.assign(stride=[60] * 15 + [30]), tmp_path, question=ASKED)
    with pytest.raises(LayerError, match="no chip of scene almaty"):
        stream_saliency(short, chips.iloc[:0], tmp_path, question=ASKED)


def fields(question: Question) -> dict[str, Any]:
    return {name: getattr(question, name) for name in question.__slots__}


KILLED = """
import os, signal, sys
from pathlib import Path
from test_saliency_stream import ASKED, Oracle, cut
from dlslicer_geo.layers import stream_saliency

class Mortal(Oracle):
    def __call__(self, chip_ids):
        if len(self.asked) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(chip_ids)

chips = cut((1500, 3600))
stream_saliency(Mortal(chips), chips, Path(sys.argv[1]), question=ASKED)
"""


def test_a_killed_process_is_continued_to_the_same_bytes(tmp_path: Path) -> None:
    chips = cut((1500, 3600))
    whole = stream_saliency(Oracle(chips), chips, tmp_path / "undisturbed", question=ASKED)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    died = subprocess.run(command, cwd=Path(__file__).parent, env=os.environ | {"PYTHONPATH": "."}, check=False)
    assert died.returncode == -signal.SIGKILL
    (work,) = (tmp_path / "killed" / "saliency").glob(".*.rows")
    with work.open("ab") as half:
        half.write(b"\0" * 100)  # a row that was cut off
    leftover = work.with_name(".almaty.chico.grad-cam.123.tiled.tif")
    leftover.write_bytes(b"")
    other = Oracle(chips, question=Question(**fields(ASKED) | {"identity": "new"}))
    copy = tmp_path / "other" / "saliency" / work.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(work.read_bytes())
    stream_saliency(other, chips, tmp_path / "other", question=other.question)
    assert other.number == len(chips), "work of another identity is not continued"
    oracle = Oracle(chips)
    layer = stream_saliency(oracle, chips, tmp_path / "killed", question=ASKED)
    assert 0 < oracle.number <= len(chips) - 2 * 236, "two parts of four rows are done"
    assert layer.path.read_bytes() == whole.path.read_bytes()
    assert {path.suffix for path in layer.path.parent.iterdir()} == {".tif", ".qml"}


def test_a_file_that_could_not_be_made_of_finished_rows_is_made_later_without_asking(tmp_path: Path) -> None:
    chips = cut((600, 600))
    in_the_way = tmp_path / "saliency" / "almaty.chico.grad-cam.qml"
    in_the_way.mkdir(parents=True)
    with pytest.raises(OSError):
        stream_saliency(Oracle(chips), chips, tmp_path, question=ASKED)
    in_the_way.rmdir()
    oracle = Oracle(chips)
    layer = stream_saliency(oracle, chips, tmp_path, question=ASKED)
    whole = stream_saliency(Oracle(chips), chips, tmp_path / "undisturbed", question=ASKED)
    assert not oracle.asked and layer.path.read_bytes() == whole.path.read_bytes()


HUGE = """
import resource, sys
from pathlib import Path
import numpy as np
from test_saliency_stream import ASKED, GRID, cut
from dlslicer_geo.layers import Question, stream_saliency
from dlslicer_geo.types import Saliency

chips = cut((96_000, 96_000), size=480, stride=240)
windows = chips[["row", "col", "height", "width"]].to_numpy()
layers = ("layer1", "layer2", "layer3", "layer4")
maps = {name: np.random.default_rng(i).normal(size=(256, 56, 56)).astype(np.float32) for i, name in enumerate(layers)}

def ask(ids):
    n = len(ids)
    said = {name: values[:n] + np.float32(ids[0] % 7) for name, values in maps.items()}
    return Saliency(method="m", layers=layers, maps=said, chip_id=ids, scene_id=("s",) * n, city=("c",) * n,
        windows=windows[ids - 1000], stride=np.full(n, 240), grids={"s": GRID}, input_size=224)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

baseline = peak()
question = Question(scene="s", city="c", method="m", layers=layers)
stream_saliency(ask, chips, Path(sys.argv[1]), question=question)
print(len(chips), peak() - baseline)
"""


@pytest.mark.slow
def test_a_scene_of_96_000_pixels_square_takes_less_than_250_mib(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HUGE, str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env=os.environ | {"PYTHONPATH": "."}, check=True, stdout=subprocess.PIPE
    )
    chips, mib = done.stdout.split()
    print(f"{int(chips)} chips, {float(mib):.0f} MiB above the baseline")
    assert int(chips) == 159_201 and float(mib) <= 250
