"""A store changes no byte that a model sees, and takes no more room than it said."""

from __future__ import annotations

import logging
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from dlslicer_geo.chips import cut
from dlslicer_geo.config import of_images
from dlslicer_geo.data import ChipDataModule, ChipDataset, write_store
from dlslicer_geo.data.layout import in_sheets
from dlslicer_geo.data.store import Job, write_scene
from dlslicer_geo.errors import SceneError
from dlslicer_geo.pipeline.pieces import data_module, keep_chips
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.scenes import scan
from dlslicer_geo.types import ChipGrid, Reading

SIZE = 56


@pytest.fixture
def scenes(raster: Any, tmp_path: Path) -> Any:
    """Two scenes of different resolution and one on its own pixels, uncompressed."""
    for name, gsd, x in (("a", 0.4, 4e5), ("b", 0.53, 4.5e5), ("c", 48 / SIZE, 5e5)):
        raster(f"in/{name}_2020_1.tif", gsd=gsd, size=(500, 430), origin=(x, 3_750_000.0))
    return scan(tmp_path / "in")


def grid(stride: int) -> ChipGrid:
    return ChipGrid(size=SIZE, stride=stride, metres=48.0)


def pixels(scenes: Any, chips: Any, store: Path | None = None) -> torch.Tensor:
    dataset = ChipDataset(scenes, chips, (), store=store)
    order = np.random.default_rng(0).permutation(len(chips))
    return dataset.batch(order)["image"]


def without_rasters(scenes: Any) -> Any:
    """The same scenes, none of whose rasters can be opened."""
    return scenes.assign(path="/nowhere.tif")


@pytest.mark.parametrize("stride", [28, 14, 56, 23])
def test_a_store_gives_the_bytes_of_the_rasters_without_them(stride: int, scenes: Any, tmp_path: Path) -> None:
    chips = cut(scenes, grid(stride))
    stored = write_store(scenes, chips, tmp_path / "store")
    assert stored.scenes == 3
    assert torch.equal(pixels(without_rasters(scenes), chips, tmp_path / "store"), pixels(scenes, chips))


def test_chips_that_are_enlarged_are_stored_too(raster: Any, tmp_path: Path) -> None:
    raster("in/a_2020_1.tif", gsd=1.6, size=(200, 200))
    scenes = scan(tmp_path / "in")
    chips = cut(scenes, grid(28))
    assert chips["height"].iloc[0] == 30
    write_store(scenes, chips, tmp_path / "store", always=True)
    assert torch.equal(pixels(without_rasters(scenes), chips, tmp_path / "store"), pixels(scenes, chips))


def test_half_overlapping_chips_take_less_than_half_of_what_they_measure(scenes: Any, tmp_path: Path) -> None:
    chips = cut(scenes[scenes["scene_id"] == "a_2020_1"], grid(28))
    stored = write_store(scenes, chips, tmp_path / "store")
    assert stored.bytes < len(chips) * SIZE**2 * 3 / 2
    assert stored.bytes == (tmp_path / "store" / "a_2020_1.safetensors").stat().st_size
    tensors = load_file(tmp_path / "store" / "a_2020_1.safetensors")
    assert tensors["windows"].tolist() == chips[["row", "col", "height", "width"]].to_numpy().tolist()


def test_halves_that_are_cut_by_themselves_share_their_pixels_each(scenes: Any, tmp_path: Path) -> None:
    halves = {"a_2020_1": [(0, 0, 247, 430), (247, 1, 253, 429)]}
    one = scenes[scenes["scene_id"] == "a_2020_1"]
    chips = cut(one, grid(28), regions=halves)
    assert chips["col"].min() == 0
    assert len(set(chips["col"] % 60)) > 1
    stored = write_store(one, chips, tmp_path / "store")
    assert stored.bytes < len(chips) * SIZE**2 * 3 / 2
    assert torch.equal(pixels(without_rasters(one), chips, tmp_path / "store"), pixels(one, chips))


def test_windows_anywhere_are_stored_whole(scenes: Any, tmp_path: Path) -> None:
    chips = cut(scenes, grid(28))
    anywhere = np.random.default_rng(0).integers(0, 300, (2, len(chips)))
    chips = chips.assign(row=anywhere[0], col=anywhere[1])
    stored = write_store(scenes, chips, tmp_path / "store", always=True)
    assert stored.scenes == 3
    assert torch.equal(pixels(without_rasters(scenes), chips, tmp_path / "store"), pixels(scenes, chips))


def test_chips_that_turn_out_to_share_nothing_are_stored_whole(scenes: Any, tmp_path: Path) -> None:
    chips = cut(scenes[scenes["scene_id"] == "a_2020_1"], grid(28))
    windows = chips[["row", "col", "height", "width"]].to_numpy(np.int64)
    honest = in_sheets(windows, SIZE)
    assert honest.rim == 1
    rimless = replace(honest, rim=0, at=honest.at - [honest.at[0, 1] + 3, 0])  # as if rims were equal too
    job = Job(
        scene=scenes[scenes["scene_id"] == "a_2020_1"], chips=chips, path=tmp_path / "store" / "a_2020_1.safetensors",
        layout=rimless, most=np.inf,
    )  # fmt: skip
    assert "not equal" in write_scene(replace(job, most=1.0))
    assert not list(job.path.parent.iterdir())
    assert not write_scene(job)
    assert torch.equal(pixels(without_rasters(scenes), chips, tmp_path / "store"), pixels(scenes, chips))


def test_chips_that_are_not_stored_are_read_from_their_scenes(scenes: Any, tmp_path: Path) -> None:
    chips = cut(scenes, grid(28))
    stored = chips[(chips["chip_id"] % 3 > 0) & (chips["scene_id"] != "b_2020_1")]
    write_store(scenes, stored, tmp_path / "store")
    expected = pixels(scenes, chips)
    assert torch.equal(pixels(scenes, chips, tmp_path / "store"), expected)
    once, far = (
        ChipDataModule(table, chips, store=tmp_path / "store") for table in (scenes, without_rasters(scenes))
    )
    order = np.arange(len(chips))
    found = torch.cat([batch["image"] for batch in once.loader(order)])
    assert torch.equal(found, once.dataset.batch(order)["image"])
    assert len(far.dataset.batch(stored.index.to_numpy())["image"]) == len(stored)
    with pytest.raises(SceneError, match="a_2020_1 cannot be read from /nowhere"):
        far.dataset.batch(order[:1])


def test_a_store_of_other_pixels_is_never_read(raster: Any, scenes: Any, tmp_path: Path) -> None:
    chips, store = cut(scenes, grid(28)), tmp_path / "store"
    write_store(scenes, chips, store)
    raster(
        "in/a_2020_1.tif", gsd=0.4, size=(500, 430), pixels=np.full((3, 500, 430), 7, np.uint8), origin=(4e5, 3.75e6)
    )
    others = {
        "another image": scan(tmp_path / "in"),
        "bands in another order": scan(tmp_path / "in", reading=Reading(bands=(3, 1, 2))),
        "another grid": scenes.assign(transform=[(0.4, 0, 4e5 + 1, 0, -0.4, 3e6)] * len(scenes)),
    }
    first = chips[chips["scene_id"] == "a_2020_1"]
    for name, other in others.items():
        assert torch.equal(pixels(other, first, store), pixels(other, first)), name
    smaller = first.assign(size=40)
    assert pixels(scenes, smaller, store).shape[-1] == 40


def test_a_damaged_or_foreign_file_is_read_around(scenes: Any, tmp_path: Path) -> None:
    chips, store = cut(scenes, grid(28)), tmp_path / "store"
    write_store(scenes, chips, store)
    a, b, c = sorted(store.glob("*.safetensors"))
    a.write_bytes(a.read_bytes()[:-10_000])
    b.write_bytes(b"")
    c.write_bytes(b"\xff" * 4000)
    assert torch.equal(pixels(scenes, chips, store), pixels(scenes, chips))
    assert write_store(scenes, chips, store).scenes == 3
    assert torch.equal(pixels(without_rasters(scenes), chips, store), pixels(scenes, chips))


def test_a_flipped_bit_before_the_pixels_is_read_around(scenes: Any, tmp_path: Path) -> None:
    chips, store = cut(scenes[:1], grid(28)), tmp_path / "store"
    write_store(scenes[:1], chips, store)
    expected, file = pixels(scenes[:1], chips), next(store.glob("*.safetensors"))
    whole = file.read_bytes()
    begin = 8 + int(np.frombuffer(whole[:8], "<u8")[0]) + len(chips) * 4 * 8  # where the places begin
    for at in (0, 12, whole.index(b'"rim"') + 8, begin, begin + 1, begin + 8, begin - 32):
        broken = bytearray(whole)
        broken[at] ^= 2
        file.write_bytes(broken)
        assert torch.equal(pixels(scenes[:1], chips, store), expected), at


@pytest.mark.parametrize("always", [False, True])
def test_a_file_that_cannot_be_written_is_no_reason_to_stop_unless_a_store_is_insisted_on(
    always: bool, scenes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chips, store = cut(scenes, grid(28)), tmp_path / "store"
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    asked = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        if always:
            with pytest.raises(SceneError, match=r"a_2020_1\.safetensors cannot be written .*: make room"):
                write_store(scenes, chips, store, always=True)
        else:
            with caplog.at_level(logging.INFO):
                assert write_store(scenes, chips, store).scenes == 0
            assert "its chips are read from the raster" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, asked)
    assert not list(store.iterdir())


def test_what_is_there_is_kept_and_what_is_not_wanted_is_removed(scenes: Any, tmp_path: Path) -> None:
    chips, store = cut(scenes, grid(28)), tmp_path / "store"
    write_store(scenes, chips, store)
    before = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    (store / "a_2020_1.safetensors").unlink()
    (store / ".b_2020_1.77.tmp.safetensors").write_bytes(b"half")
    write_store(scenes, chips[chips["scene_id"] != "c_2020_1"], store)
    after = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    assert sorted(after) == ["a_2020_1.safetensors", "b_2020_1.safetensors"]
    assert after["b_2020_1.safetensors"] == before["b_2020_1.safetensors"]
    assert after["a_2020_1.safetensors"] > before["a_2020_1.safetensors"]


def test_the_same_store_has_the_same_bytes_whoever_writes_it(scenes: Any, tmp_path: Path) -> None:
    chips = cut(scenes, grid(28))
    write_store(scenes, chips, tmp_path / "one")
    with ThreadPoolExecutor(2) as executor:
        write_store(scenes, chips, tmp_path / "other", executor=executor)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_its_size_is_said_before_it_is_written(scenes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dlslicer_geo")
    chips = cut(scenes, grid(28))
    stored = write_store(scenes, chips, tmp_path / "store")
    said = caplog.messages[0]
    assert said.startswith(f"a store of {len(chips)} chips of 3 scenes takes {stored.bytes / 1e9:.2f} GB in ")
    assert len(caplog.messages) == 1
    write_store(scenes, chips, tmp_path / "store")
    assert len(caplog.messages) == 1


def test_a_store_larger_than_twice_the_images_is_only_written_when_asked_for(
    raster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dlslicer_geo")
    flat = np.full((3, 400, 400), 90, np.uint8)
    raster("in/a_2020_1.tif", gsd=0.4, pixels=flat, compress="deflate", tiled=True, blockxsize=128, blockysize=128)
    scenes, store = scan(tmp_path / "in"), tmp_path / "store"
    chips = cut(scenes, grid(28))
    assert write_store(scenes, chips, store).left == 1
    assert "would be more than 2 times the 0.00 GB of raw images: chips are read from their" in caplog.messages[-1]
    assert not store.exists()
    assert write_store(scenes, chips, store, always=True).scenes == 1


def test_reading_from_a_store_needs_no_local_order(scenes: Any, tmp_path: Path) -> None:
    chips = cut(scenes, grid(28)).assign(split="train")
    write_store(scenes, chips, tmp_path / "store")
    plain = list(ChipDataModule(scenes, chips).train_dataloader().sampler)
    kept = ChipDataModule(scenes, chips, local=16, store=tmp_path / "store")
    assert list(kept.train_dataloader().sampler) == plain
    assert list(ChipDataModule(scenes, chips, local=16).train_dataloader().sampler) != plain


def test_workers_read_a_store_each_for_itself(scenes: Any, tmp_path: Path) -> None:
    chips = cut(scenes, grid(28)).assign(split="train")
    write_store(scenes, chips, tmp_path / "store")
    data = ChipDataModule(without_rasters(scenes), chips, batch_size=32, workers=2, store=tmp_path / "store")
    data.dataset[0]
    seen = torch.cat([batch["image"] for batch in data.train_dataloader()])
    alone = ChipDataModule(scenes, chips, batch_size=32)
    assert torch.equal(seen, torch.cat([batch["image"] for batch in alone.train_dataloader()]))


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ([], True),
        (["--fit.store", "never"], False),
        (["--fit.max_epochs", "1"], False),
        (["--model.freeze_backbone", "true"], False),
        (["--fit.max_epochs", "1", "--fit.store", "always"], True),
    ],
)
def test_a_run_keeps_the_chips_that_training_reads_more_than_once(
    overrides: list[str], kept: bool, scenes: Any, tmp_path: Path
) -> None:
    chips = cut(scenes, grid(28))
    splits = np.array(["train", "val", "test"])[chips["chip_id"] % 3]
    chips = chips.assign(split=splits, city=chips["scene_id"])
    run = Run(config=of_images(str(tmp_path / "in"), overrides), folder=tmp_path / "run")
    keep_chips(run, scenes, chips)
    data = data_module(run, scenes, chips)
    assert (data.dataset.shelf is not None) == kept
    assert (run.folder / "store").exists() == kept
    if kept:
        far = data_module(run, without_rasters(scenes), chips)
        seen = np.flatnonzero(splits != "test")
        assert torch.equal(far.dataset.batch(seen)["image"], ChipDataset(scenes, chips, ()).batch(seen)["image"])
        unused = replace(run.config, fit=replace(run.config.fit, store="never"))
        assert data_module(Run(config=unused, folder=run.folder), scenes, chips).dataset.shelf is None


def test_readers_are_as_many_as_asked_for_and_none_for_a_cpu(scenes: Any, tmp_path: Path) -> None:
    chips = cut(scenes, grid(28)).assign(split="train", city="a")
    for overrides, readers in ((["--compute.readers", "3"], 3), (["--compute.accelerator", "cpu"], 0)):
        run = Run(config=of_images(str(tmp_path / "in"), overrides), folder=tmp_path / "run")
        assert data_module(run, scenes, chips, cities=("a",)).workers == readers
