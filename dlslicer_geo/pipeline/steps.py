"""A station and what it leaves behind: the values that ``runs`` puts in order and writes into ``run.json``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo import __version__
from dlslicer_geo.files import sha256_file, sha256_json
from dlslicer_geo.types import Channels, Layer

if TYPE_CHECKING:
    from dlslicer_geo.pipeline.runs import Run

PACKAGE = Path(__file__).parents[1]
CODE = (".py", ".js", ".css")
"""What makes a room do something else when it changes."""

HALL = ("errors", "types", "files", "pixels", "colours")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a station leaves behind.

    Args:
        files: what it wrote.
        large: what it wrote that is too large to be hashed each time; its size is compared.
        read: local files it read that may lie outside of what is listed; their size and time are compared.
        layers: those of them that belong on a map.
        notes: what a reader of ``run.json`` must know.
    """

    files: Sequence[Path]
    layers: Sequence[Layer] = ()
    large: Sequence[Path] = ()
    read: Sequence[Path] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One step of a run.

    Args:
        name: the verb.
        work: does it.
        needs: files of the run folder it reads; ``layers`` stands for all that other stations put on the map; what
            ends with ``?`` may be absent.
        sections: sections of the configuration it obeys.
        rooms: modules whose code it runs, beside the hall.
        everywhere: whether every process has its share of it; others wait while the first one works.
    """

    name: str
    work: Callable[[Run], Done]
    needs: tuple[str, ...]
    sections: tuple[str, ...]
    rooms: tuple[str, ...]
    everywhere: bool = False


def stamp(path: Path) -> list[int]:
    """Size and time of a file; empty where there is none."""
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else []


def code_hash(rooms: Sequence[str]) -> str:
    """A hash of the code of rooms and of the hall."""
    files: list[Path] = []
    for room in (*HALL, *rooms):
        one = PACKAGE / f"{room}.py"
        parts = sorted(path for path in (PACKAGE / room).rglob("*") if path.suffix in CODE)
        files += [one] if one.exists() else parts
    return sha256_json([__version__, *(sha256_file(path) for path in files)])


def plain_layer(folder: Path, layer: Layer) -> dict[str, Any]:
    """A layer as ``run.json`` keeps it, its path seen from the run folder."""
    return dataclasses.asdict(layer) | {"path": os.path.relpath(layer.path.resolve(), folder.resolve())}


def layer_of(folder: Path, values: dict[str, Any]) -> Layer:
    """The layer that :func:`plain_layer` wrote down."""
    limits = values["limits"] and (float(values["limits"][0]), float(values["limits"][1]))
    shown = values.get("channels")
    channels = Channels(**{name: part and tuple(part) for name, part in shown.items()}) if shown else None
    rest = {"path": folder / values["path"], "cities": tuple(values["cities"]), "limits": limits}
    rest |= {"channels": channels}
    return Layer(**(values | rest))
