"""A ``Config`` and a run folder in, stations done in order, each skipped when nothing it depends on has changed."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dlslicer_geo import __version__
from dlslicer_geo.config import BESIDE, Config, is_address, to_dict
from dlslicer_geo.errors import ConfigError, DlslicerError, TableError
from dlslicer_geo.files import read_json, read_table, sha256_file, sha256_json, write_json, write_text
from dlslicer_geo.pipeline import ranks
from dlslicer_geo.pipeline.paths import clean, relative_to
from dlslicer_geo.pipeline.steps import Done, Station, code_hash, layer_of, plain_layer, stamp
from dlslicer_geo.types import Layer, Progress, quiet

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

logger = logging.getLogger(__name__)

VERSIONS = (
    "torch",
    "torchvision",
    "torchgeo",
    "lightning",
    "timm",
    "rasterio",
    "geopandas",
    "scikit-learn",
    "folium",
)


@dataclass(kw_only=True)
class Run:
    """A run folder with the configuration that fills it.

    Args:
        config: what is done.
        folder: where it goes.
        model_path: the checkpoint to use; None takes the one that ``fit`` writes here.
        images: files, folders and addresses to scan instead of ``data.root``.
        progress: shows how far long work is.
        resuming: whether the station at work was started before with the same inputs.
        force: whether it is to work even where nothing has changed.
        station: the station at work.
        obeyed: the stations that were asked for.
        worked: those of them that had work to do.
    """

    config: Config
    folder: Path
    model_path: Path | None = None
    images: tuple[str, ...] = ()
    progress: Progress = quiet
    resuming: bool = False
    force: bool = False
    station: Station | None = None
    obeyed: Sequence[str] = ()
    worked: Sequence[str] = ()

    @property
    def checkpoint(self) -> Path:
        """The model file."""
        return self.model_path or self.folder / "model.ckpt"

    @property
    def chips_file(self) -> str:
        """The chip table later stations read: split where a model is trained, as cut where one is applied."""
        return "chips.parquet" if self.model_path is None else "cut.parquet"

    @cached_property
    def plain_config(self) -> dict[str, Any]:
        """What is done, its paths relative to the run folder so that both can be moved together.

        Where it is done (``compute``) is not part of it: the same files come out.
        """
        plain = to_dict(self.config)
        del plain["compute"]
        for section, key in (*(("data", k) for k in ("root", "cities", "sidecar")), *BESIDE):
            value = plain[section][key]
            if value:
                plain[section][key] = value if is_address(value) else relative_to(self.folder, value)
        fit_to_write: dict[str, Any] = clean(plain)
        return fit_to_write

    @property
    def provenance(self) -> dict[str, str]:
        """What every output says about where it comes from."""
        return {
            "version": __version__,
            "config": json.dumps(self.plain_config, sort_keys=True),
            "config_hash": sha256_json(self.plain_config),
            "input_hash": sha256_json(self.inputs(self.station)) if self.station else "",
        }

    def inputs(self, station: Station) -> dict[str, str]:
        """Hash of every file a station reads; of images their size and date, which cost nothing to know."""
        found = {} if station.needs else {"images": sha256_json(self._listing())}
        for need in station.needs:
            if need == "layers":
                found[need] = sha256_json([(plain_layer(self.folder, x), sha256_file(x.path)) for x in self.layers()])
                continue
            name = self.chips_file if need == "chips.parquet" else need.removesuffix("?")
            path = self.checkpoint if name == "model.ckpt" else self.folder / name
            if not path.exists() and need.endswith("?"):
                continue
            if not path.is_file():
                lacks = "is no file" if path.exists() else "does not exist"
                raise TableError(f"{path} {lacks}: run the station that writes it first, or `run` for all")
            found[name] = sha256_file(path)
        return found | self._beside(station)

    def bytes_to_scan(self) -> int:
        """Bytes of all local files there are to scan."""
        return sum(size for _, size, _ in self._listing())

    def answers_from(self, name: str, *rooms: str) -> str:
        """A hash of the files that a station reads and of the code of rooms, whatever the configuration says."""
        read = {
            key: value for key, value in self.record(name)["inputs"].items() if "." in key and "explain." not in key
        }
        read.pop("saliency_check.json", None)
        return sha256_json([read, code_hash(rooms)])

    def scenes(self) -> GeoDataFrame:
        """The scene table, its paths usable from here."""
        from dlslicer_geo.scenes import COLUMNS

        table = read_table(self.folder / "scenes.parquet", COLUMNS)
        for column in ("path", "source"):
            table[column] = [p if is_address(p) else str((self.folder / p).resolve()) for p in table[column]]
        return table

    def chips(self, name: str = "") -> GeoDataFrame:
        """The chip table."""
        from dlslicer_geo.chips import COLUMNS

        return read_table(self.folder / (name or self.chips_file), COLUMNS)

    def record(self, name: str) -> dict[str, Any]:
        """What ``run.json`` knows of a station."""
        stations: dict[str, dict[str, Any]] = self._state().get("stations", {})
        return stations.get(name, {})

    def layers(self) -> list[Layer]:
        """Every layer the stations have written so far."""
        stations = self._state().get("stations", {})
        stored = [layer for record in stations.values() for layer in record.get("layers", [])]
        return [layer_of(self.folder, values) for values in stored]

    def note(self, name: str, record: dict[str, Any]) -> None:
        """Write a station's record to ``run.json``."""
        state = self._state() | {
            "version": __version__,
            "seed": self.config.seed,
            "device": _device(),
            "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "versions": {package: metadata.version(package) for package in VERSIONS},
            "config": self.plain_config,
        }
        state["stations"] = state.get("stations", {}) | {name: record}
        write_json(self.folder / "run.json", state)

    def _state(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        state: dict[str, Any] = read_json(path) if path.exists() else {}
        return state

    def _beside(self, station: Station) -> dict[str, str]:
        """Hash of what a station reads beside the run folder: a file, or what says which predictions a run holds."""
        plain = to_dict(self.config)
        paths = {f"{section}.{key}": plain[section][key] for section, key in BESIDE if section in station.sections}
        files = {key: Path(path) for key, path in paths.items() if path}
        inside = {"check.twin": "model.ckpt"}  # of another run its predictions are read, and of a twin the model
        files = {
            key: path / inside.get(key, "predictions/manifest.json") if path.is_dir() else path
            for key, path in files.items()
        }
        return {key: sha256_file(path) for key, path in files.items() if path.is_file()}

    def _listing(self) -> list[tuple[str, int, int]]:
        """Name, size and time of every local file there is to scan; of what lies elsewhere the address alone."""
        from dlslicer_geo.scenes.sources import files_below

        data = self.config.data
        given = [*(self.images or (data.root,)), *(path for path in (data.cities, data.sidecar) if path)]
        roots = [Path(root) for root in given if not is_address(root)]
        files = [f for root in roots for f in (files_below(root) if root.is_dir() else [root])]
        stats = [(relative_to(self.folder, str(f)), f.stat()) for f in files if f.is_file()]
        there = [(name, known.st_size, known.st_mtime_ns) for name, known in stats]
        return [*there, *((clean(root), 0, 0) for root in given if is_address(root))]


def execute(run: Run, stations: Sequence[Station], *, force: bool = False) -> Run:
    """Do stations in order; ``run`` then names those that had work to do.

    Where a launcher has started several processes (:mod:`dlslicer_geo.pipeline.ranks`) all of them come here. The
    first one decides what is up to date, does the stations that cannot be shared and writes ``run.json``.

    Args:
        run: the run.
        stations: what to do, in order.
        force: do them even where nothing has changed.

    Raises:
        DlslicerError: whatever a station raises; ``run.json`` keeps it, and what is written stays.
    """
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {run.folder} cannot be made ({error.strerror}): give another folder") from None
    ranks.started(run.config.compute)
    if ranks.rank_and_world()[0]:  # one voice is enough
        run.progress = quiet
        logging.getLogger("dlslicer_geo").setLevel(logging.WARNING)
    run.obeyed = [station.name for station in stations]
    run.worked = [station.name for station in stations if _do(run, station, force)]
    return run


def _do(run: Run, station: Station, force: bool) -> bool:
    begun = ranks.first(partial(_begin, run, station, force))
    if begun is None:
        return False
    run.station, run.force, run.resuming = station, force, begun.pop("resuming")
    begin = time.monotonic()
    try:
        done = station.work(run) if station.everywhere else ranks.first(partial(station.work, run))
    except DlslicerError as error:
        if not ranks.rank_and_world()[0]:
            run.note(station.name, {"status": "failed", **begun, "error": str(error)})
        raise
    ranks.first(partial(_end, run, station, begun | {"seconds": round(time.monotonic() - begin, 2)}, done))
    return True


def _begin(run: Run, station: Station, force: bool) -> dict[str, Any] | None:
    """Write down that a station has started, unless it is up to date."""
    inputs = run.inputs(station)
    sections = {name: run.plain_config[name] for name in station.sections}
    key = sha256_json({"sections": sections, "inputs": inputs, "code": code_hash(station.rooms)})
    before = run.record(station.name)
    if not force and before.get("key") == key and before["status"] == "done" and _intact(run, before):
        logger.info("%s: up to date, nothing to do", station.name)
        return None
    write_text(run.folder / "config.yaml", yaml.safe_dump(run.plain_config, sort_keys=False, allow_unicode=True))
    run.note(station.name, {"status": "started", "key": key, "inputs": inputs})
    return {"key": key, "inputs": inputs, "resuming": not force and before.get("key") == key}


def _end(run: Run, station: Station, begun: dict[str, Any], done: Done) -> None:
    """Write down what a station has left behind."""
    outputs = {os.path.relpath(path, run.folder): sha256_file(path) for path in done.files}
    large = {os.path.relpath(path, run.folder.resolve()): path.stat().st_size for path in done.large}
    layers = [plain_layer(run.folder, layer) for layer in done.layers]
    record = {"status": "done", **begun, "outputs": outputs}
    record |= {"large_outputs": large} if large else {}
    read = {os.path.relpath(path, run.folder.resolve()): stamp(path) for path in done.read}
    record |= {"read": sha256_json(read), "read_files": sorted(read)} if read else {}
    run.note(station.name, record | {"layers": layers} | done.notes)
    logger.info("%s: done in %.1f s", station.name, begun["seconds"])


def _intact(run: Run, before: dict[str, Any]) -> bool:
    whole = ((run.folder / name, sha) for name, sha in before["outputs"].items())
    large = ((run.folder / name, size) for name, size in before.get("large_outputs", {}).items())
    read = {name: stamp(run.folder / name) for name in before.get("read_files", [])}
    return (
        all(path.is_file() and sha256_file(path) == sha for path, sha in whole)
        and all(path.is_file() and path.stat().st_size == size for path, size in large)
        and (not read or sha256_json(read) == before["read"])
    )


def _device() -> str:
    if "torch" not in sys.modules:
        return "cpu"
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return f"{found or 'cpu'}, {torch.get_num_threads()} threads"
