"""Tables and a ``Run`` in, what several stations need of them out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.config import is_address
from dlslicer_geo.errors import ConfigError, SplitError
from dlslicer_geo.files import read_json
from dlslicer_geo.pipeline.executors import pool
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.types import APPROXIMATE, Compute, Layer, channels_of

if TYPE_CHECKING:
    import numpy as np
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from dlslicer_geo.types import Predictions

logger = logging.getLogger(__name__)

STORE = "store"
"""Folder in the run folder with chips as they are read."""

MANY = 20_000
"""Chips from which on it pays to start processes that write them."""


def outside(roots: Iterable[str], paths: Iterable[str]) -> list[Path]:
    """Local files among paths that lie in none of the roots that are folders: what lists and catalogues name."""
    folders = [Path(root).resolve() for root in roots if not is_address(root) and Path(root).is_dir()]
    local = [Path(path) for path in paths if not is_address(path)]
    return [path for path in local if not any(path.resolve().is_relative_to(folder) for folder in folders)]


def reading_of(run: Run, scenes: GeoDataFrame) -> dict[str, Any]:
    """How the pixels of these scenes are read, so that a model is applied to others read alike.

    Returns:
        ``bands`` as configured, and ``low`` and ``high``, the values per channel that become 0 and 255; None for
        uint8 imagery, which is taken as it is, and for scenes that are scaled in several ways.
    """
    found = {channels_of(record) for record in scenes[["channels", "low", "high"]].to_dict("records")}
    one = found.pop() if len({(c.low, c.high) for c in found}) == 1 else None
    bands = run.config.data.bands
    return {
        "bands": list(bands) if bands else None,
        "low": list(one.low) if one and one.low else None,
        "high": list(one.high) if one and one.high else None,
    }


def check_certificate(scenes: GeoDataFrame, chips: GeoDataFrame, path: Path, *, proven: bool = True) -> None:
    """Prove again, from the tables alone, that no two splits share anything.

    Args:
        scenes: scene table.
        chips: chip table.
        path: the certificate.
        proven: false where the rule keeps nothing apart, which is then said and not refused.

    Raises:
        LeakError: naming the two chips.
        SplitError: if the certificate is absent or another table's.
    """
    from dlslicer_geo import splits

    if proven:
        splits.verify(chips, scenes=scenes)
    else:
        logger.warning("split.kind random leaks: whatever is measured on it is not what the model can do elsewhere")
    if not path.exists():
        raise SplitError(
            f"{path} does not exist: a model is only fitted on a split that is proven; run `split` first"
        )
    stated = read_json(path)
    for name, found in (("chips_hash", splits.chips_hash(chips)), ("scenes_hash", splits.scenes_hash(scenes))):
        if not isinstance(stated, dict) or stated.get(name) != found:
            raise SplitError(f"{path} is the certificate of another {name[:4]} table: run `split` again")


def data_module(run: Run, scenes: GeoDataFrame, chips: GeoDataFrame, *, cities: Any = None) -> Any:
    """The data module of a run; without ``cities`` those that train has chips of."""
    from dlslicer_geo.data import ChipDataModule
    from dlslicer_geo.scenes import city_order

    how, store = run.config.fit, run.folder / STORE
    if cities is None:
        learnt = set(chips.loc[chips["split"] == "train", "city"].dropna())  # another city has no output to train
        known = city_order(run.config.data.cities, run.config.data.source) or sorted(learnt)
        cities = [code for code in known if code in learnt]
        chips = _learnable(chips, learnt)
    return ChipDataModule(
        scenes, chips, cities=cities, batch_size=how.batch_size, workers=_readers(run.config.compute),
        balanced=how.balanced, seed=run.config.seed, local=how.local,
        store=store if how.store != "never" and any(store.glob("*.safetensors")) else None,
    )  # fmt: skip


def keep_chips(run: Run, scenes: GeoDataFrame, chips: GeoDataFrame) -> None:
    """Write the store of the chips that training reads, as ``fit.store`` says; :func:`data_module` finds it."""
    from dlslicer_geo.data import write_store

    how, read = run.config.fit, chips[chips["split"].isin(("train", "val"))]
    again = how.max_epochs > 1 and not run.config.model.freeze_backbone
    if how.store == "never" or (how.store == "auto" and not again):
        return
    with ExitStack() as stack:
        many = len(read) > MANY
        executor = stack.enter_context(pool(run.config.compute)) if many else None
        write_store(
            scenes, read, run.folder / STORE, always=how.store == "always", executor=executor, progress=run.progress
        )


def _readers(compute: Compute) -> int:
    """Processes that read chips beside this one: none for a CPU, which they would take from the network."""
    import torch

    if compute.readers is not None:
        return compute.readers
    if compute.accelerator == "cpu" or not torch.accelerator.is_available():
        return 0
    return min(8, max(1, (os.cpu_count() or 1) // torch.accelerator.device_count()))


def _learnable(chips: GeoDataFrame, learnt: set[str]) -> GeoDataFrame:
    """Without train and val chips of no learnt city, which a loss has no target for and a threshold must not see."""
    strange = chips["split"].isin(("train", "val")) & ~chips["city"].isin(learnt)
    if strange.any():
        logger.warning("%d train and val chips are of no city that train has: they are left out", strange.sum())
    return chips.assign(split=chips["split"].mask(strange, "unused"))


def images(data: Any, chip_ids: NDArray[np.int64], *, edge: int) -> dict[int, Any]:
    """Pixels uint8 (rows, cols, 3) of chips by their number, shrunk to ``edge`` where they are larger."""
    from dlslicer_geo.data import resize

    found = {}
    for number in chip_ids.tolist():
        image = data.dataset[int(number)]["image"]
        if max(image.shape[1:]) > edge:
            image = resize(image[None], edge)[0]
        found[int(number)] = image.permute(1, 2, 0).numpy()
    return found


def captions(found: Predictions) -> dict[int, str]:
    """What stands beside a chip of the gallery, by chip number."""
    lines = zip(found.chip_id.tolist(), found.truth, found.city, found.confidence.tolist(), strict=True)
    return {
        number: (f"true {truth}\n" if truth else "") + f"predicted {city}, {confidence:.2f}"
        for number, truth, city, confidence in lines
    }


def image_layers(scenes: GeoDataFrame, chips: GeoDataFrame, chosen: NDArray[np.int64]) -> list[Layer]:
    """The imagery of the scenes that the chosen chips lie in."""
    wanted = scenes[scenes["scene_id"].isin(set(chips["scene_id"].to_numpy()[chosen]))]
    return [
        Layer(
            kind="image", path=Path(row["path"]), title="Imagery",
            group=row["city"] if isinstance(row["city"], str) else row["scene_id"],
            channels=channels_of(row), approximate=row["georef"] in APPROXIMATE,
        )
        for row in wanted.to_dict("records")
        if not is_address(row["path"])  # a map is made from files; imagery elsewhere would be fetched again
    ]  # fmt: skip


def loggers(described: list[dict[str, Any]]) -> list[Any]:
    """Lightning loggers by class path, checked against their signatures by jsonargparse."""
    if not described:
        return []
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser
    from lightning.pytorch.loggers import Logger

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Logger, "logger")
    try:
        return [parser.instantiate(parser.parse_object({"logger": one}))["logger"] for one in described]
    except ArgumentError as error:
        raise ConfigError(f"fit.loggers: {' '.join(str(error).split())[:300]}") from None


def unit_name(certificate: Mapping[str, Any]) -> str:
    """What stayed together in a split, in a word: the block of the bootstrap."""
    kind = str(certificate.get("rule", {}).get("kind", "place"))
    return {"paper": "scene", "random": "scene", "given": "unit"}.get(kind, kind)


def city_names(scenes: GeoDataFrame) -> dict[str, str]:
    """Names of the cities by code, as far as scenes have them."""
    known = scenes[scenes["city"].notna() & scenes["city_name"].notna()]
    return dict(zip(known["city"], known["city_name"], strict=True))
