"""Similarity: distances with known answers, neighbours against a sort of all pairs."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from dlslicer_geo.errors import TableError
from dlslicer_geo.similarity import similar
from dlslicer_geo.types import Predictions

CITIES = ("ALA", "BOM", "CAI")


def table(cities: list[str | None]) -> gpd.GeoDataFrame:
    x = np.arange(len(cities)) * 0.01
    columns = {"chip_id": np.arange(len(cities)), "city": cities, "site": [f"S{i % 4}" for i in range(len(cities))]}
    columns["approximate"] = [False] * len(cities)
    return gpd.GeoDataFrame(columns, geometry=shapely.box(x, x * 0, x + 0.01, x * 0 + 0.01), crs="EPSG:4326")


def answers(
    truth: list[str | None],
    probabilities: NDArray[np.floating] | list[list[float]],
    embedding: NDArray[np.float32] | None,
    chip_id: NDArray[np.int64] | None = None,
) -> Predictions:
    return Predictions(
        cities=CITIES,
        chip_id=np.arange(len(truth)) if chip_id is None else chip_id,
        scene_id=("s",) * len(truth),
        truth=tuple(truth),
        probabilities=np.asarray(probabilities, np.float32),
        embedding=embedding,
    )


def random_answers(count: int, seed: int = 0) -> tuple[Predictions, gpd.GeoDataFrame]:
    random = np.random.default_rng(seed)
    truth: list[str | None] = [CITIES[i] for i in random.integers(0, 3, count)]
    probabilities = random.dirichlet(np.ones(3), count).astype(np.float32)
    embedding = random.normal(size=(count, 8)).astype(np.float32)
    return answers(truth, probabilities, embedding), table(truth)


def test_cities_with_the_same_mean_answer_are_zero_apart_and_with_nothing_in_common_one() -> None:
    truth: list[str | None] = ["ALA", "ALA", "BOM", "CAI"]
    probabilities = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    matrix, _ = similar(answers(truth, probabilities, np.eye(4, dtype=np.float32)), table(truth))
    assert list(matrix.index) == list(matrix.columns) == list(CITIES)
    assert matrix.to_numpy() == pytest.approx(np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]]))


def test_the_matrix_is_a_distance_of_base_two() -> None:
    found, chips = random_answers(300)
    matrix, _ = similar(found, chips)
    values = matrix.to_numpy()
    assert (values == values.T).all()
    assert (np.diag(values) == 0).all()
    assert ((values >= 0) & (values <= 1)).all()
    p, q = (found.probabilities[np.array(found.truth) == city].mean(axis=0, dtype=np.float64) for city in CITIES[:2])
    middle = (p + q) / 2
    divergence = (p * np.log2(p / middle)).sum() / 2 + (q * np.log2(q / middle)).sum() / 2
    assert values[0, 1] == pytest.approx(np.sqrt(divergence))


def test_a_chip_of_unknown_city_counts_for_the_predicted_one_and_an_unseen_city_for_itself() -> None:
    truth: list[str | None] = [None, "ALA", "KTM"]
    probabilities = [[0.2, 0.7, 0.1], [0.9, 0.1, 0.0], [0.4, 0.5, 0.1]]
    matrix, alike = similar(answers(truth, probabilities, np.eye(3, dtype=np.float32)), table(truth))
    assert list(matrix.index) == ["ALA", "BOM", "KTM"]
    assert alike.set_index("chip_id")["city"].drop_duplicates().to_dict() == {0: "BOM", 1: "ALA", 2: "KTM"}


@pytest.mark.parametrize("count", [40, 3000])
def test_look_alikes_are_the_nearest_chips_of_other_cities(count: int) -> None:
    found, chips = random_answers(count)
    _, alike = similar(found, chips, neighbours=3)
    assert found.embedding is not None
    unit = found.embedding.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    truth = np.array(found.truth)
    assert len(alike) == 3 * count
    for chip in (0, 17, count - 1):
        cosine = unit @ unit[chip]
        order = [int(other) for other in np.argsort(-cosine) if truth[other] != truth[chip]][:3]
        mine = alike[alike["chip_id"] == chip]
        assert mine["like_chip_id"].tolist() == order
        assert mine["cosine"].to_numpy() == pytest.approx(cosine[order], abs=1e-6)
        assert mine["rank"].tolist() == [1, 2, 3]
        assert mine["like_site"].tolist() == chips["site"].iloc[order].tolist()
        assert (mine["city"] != mine["like_city"]).all()
        assert (mine.geometry == chips.geometry.iloc[chip]).all()


def test_equals_come_in_the_order_of_their_chip_ids_however_they_were_predicted() -> None:
    truth: list[str | None] = ["ALA", *["BOM"] * 30, "CAI"]
    embedding = np.tile(np.random.default_rng(1).normal(size=8), (32, 1)).astype(np.float32)
    found = answers(truth, np.full((32, 3), 1 / 3), embedding)
    _, alike = similar(found, table(truth), neighbours=4)
    assert alike.loc[alike["chip_id"] == 0, "like_chip_id"].tolist() == [1, 2, 3, 4]
    turned = np.arange(32)[::-1]
    again = answers(truth[::-1], np.full((32, 3), 1 / 3), embedding, turned.copy())
    assert similar(again, table(truth), neighbours=4)[1].equals(alike)


def test_a_chip_has_fewer_look_alikes_where_other_cities_have_fewer_chips() -> None:
    truth: list[str | None] = ["ALA", "ALA", "BOM"]
    _, alike = similar(answers(truth, np.full((3, 3), 1 / 3), np.eye(3, dtype=np.float32)), table(truth))
    assert alike.groupby("chip_id").size().to_dict() == {0: 1, 1: 1, 2: 2}
    _, none = similar(answers(truth[:2], np.full((2, 3), 1 / 3), np.eye(2, dtype=np.float32)), table(truth))
    assert len(none) == 0


def test_an_embedding_of_zeros_is_like_nothing() -> None:
    truth: list[str | None] = ["ALA", "BOM"]
    _, alike = similar(answers(truth, np.full((2, 3), 1 / 3), np.zeros((2, 4), np.float32)), table(truth))
    assert alike["cosine"].tolist() == [0, 0]


def test_the_columns_are_those_of_the_format() -> None:
    found, chips = random_answers(9)
    _, alike = similar(found, chips)
    mine, like = ["chip_id", "city", "site", "approximate"], ["like_chip_id", "like_city", "like_site"]
    assert list(alike.columns) == [*mine, *like, "rank", "cosine", "geometry"]
    assert alike.crs == "EPSG:4326"


def test_without_embeddings_or_predictions_or_a_matching_table_the_remedy_is_said() -> None:
    found, chips = random_answers(6)
    without = answers(list(found.truth), found.probabilities, None)
    with pytest.raises(
        TableError, match=r"6 predictions have no embeddings: predict again with `--predict.embedding"
    ):
        similar(without, chips)
    with pytest.raises(TableError, match="no predictions"):
        similar(answers([], np.zeros((0, 3)), np.zeros((0, 4), np.float32)), chips)
    with pytest.raises(TableError, match="chip 5 was predicted"):
        similar(found, chips[:5])
