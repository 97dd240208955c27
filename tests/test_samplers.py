"""Draws are seeded, fair to every city, and the same whether they are local or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper

from dlslicer_geo.data import BalancedSampler, ShuffledSampler

PER_SCENE, WINDOW = 100, 600

CITIES = np.repeat(np.arange(6), [9000, 6000, 3000, 3000, 1500, 1500])
SCENES = np.arange(len(CITIES)) // PER_SCENE


@pytest.mark.parametrize("kind", [BalancedSampler, ShuffledSampler])
def test_a_local_order_has_the_same_draws(kind: type[ShuffledSampler]) -> None:
    anywhere, local = kind(CITIES, seed=3), kind(CITIES, seed=3, scenes=SCENES, local=WINDOW)
    for epoch in (0, 1):
        anywhere.set_epoch(epoch)
        local.set_epoch(epoch)
        assert list(anywhere) != list(local)
        assert sorted(anywhere) == sorted(local)
        assert list(local) == list(kind(CITIES, seed=3, scenes=SCENES, local=WINDOW)) or epoch
    first = list(local)
    local.set_epoch(0)
    assert first != list(local)


def test_a_shuffled_epoch_reads_every_chip_once() -> None:
    assert sorted(ShuffledSampler(CITIES, seed=1)) == list(range(len(CITIES)))


def windows(sampler: ShuffledSampler) -> Iterator[np.ndarray]:
    drawn = np.array(list(sampler))
    yield from np.split(drawn, range(WINDOW, len(drawn), WINDOW))


def test_a_local_window_touches_few_scenes_and_every_city_alike() -> None:
    local = list(windows(BalancedSampler(CITIES, seed=0, scenes=SCENES, local=WINDOW)))
    anywhere = list(windows(BalancedSampler(CITIES, seed=0)))
    touched, usual = (np.mean([len(np.unique(SCENES[w])) for w in some]) for some in (local, anywhere))
    assert touched < usual / 5
    for window in local:
        assert np.abs(np.bincount(CITIES[window], minlength=6) - WINDOW / 6).max() <= 8


def test_a_local_batch_mixes_the_cities_as_any_batch_does() -> None:
    drawn = CITIES[list(BalancedSampler(CITIES, seed=0, scenes=SCENES, local=WINDOW))]
    batches = drawn[: len(drawn) // 60 * 60].reshape(-1, 60)
    counts = np.stack([np.bincount(batch, minlength=6) for batch in batches])
    assert counts.mean(axis=0) == pytest.approx([10] * 6, abs=0.5)
    assert counts.std(axis=0).max() < np.sqrt(60 * 5 / 36) * 1.15  # that of independent draws


@pytest.mark.parametrize("local", [0, WINDOW])
def test_ranks_take_disjoint_shares_of_one_draw(local: int) -> None:
    def ranks() -> list[list[int]]:
        shares = []
        for rank in range(2):
            sampler = BalancedSampler(CITIES, seed=4, scenes=SCENES, local=local)
            share = DistributedSamplerWrapper(sampler, num_replicas=2, rank=rank, shuffle=False)
            share.set_epoch(5)
            shares.append(list(share))
        return shares

    whole = BalancedSampler(CITIES, seed=4, scenes=SCENES, local=local)
    whole.set_epoch(5)
    first, second = ranks()
    assert [chip for pair in zip(first, second, strict=True) for chip in pair] == list(whole)
