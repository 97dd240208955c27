"""A YAML file and command-line overrides in, one frozen ``Config`` out, and back."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from dlslicer_geo.errors import ConfigError
from dlslicer_geo.scenes import NAIP_PATTERN
from dlslicer_geo.types import ChipGrid, SplitRule

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where the scenes are.

    Args:
        root: folder of GeoTIFFs, searched with its subfolders; relative paths count from the YAML file.
        pattern: regular expression for the path below root without its suffix, with the named group city and,
            where there are such, name, site and date.
        cities: CSV with the columns code and city: names of the codes; null takes the names from the paths.
        on_bad: what a GeoTIFF that cannot be a scene does: raise an error, or skip it with a line that says why.
    """

    root: str
    pattern: str | None = NAIP_PATTERN
    cities: str | None = None
    on_bad: Literal["raise", "skip"] = "raise"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network and how its weights move.

    Args:
        name: name of a timm network.
        weights: true (timm's, from the hub), packaged (EfficientNet-Lite0, no hub), the name of TorchGeo weights,
            a file, or false for random weights.
        freeze_backbone: train only the head, on features that are computed once.
        input_size: edge in pixels of what the network sees.
        lr: learning rate.
        weight_decay: weight decay.
        optimizer: adamw or adam.
        schedule: cosine, plateau or none.
        patience: epochs without progress before plateau lowers the rate.
    """

    name: str = "resnet50"
    weights: bool | str = True
    freeze_backbone: bool = False
    input_size: int = 224
    lr: float = 1e-3
    weight_decay: float = 0.0
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "plateau", "none"] = "cosine"
    patience: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """The training.

    Args:
        max_epochs: epochs at most.
        batch_size: chips per batch, also when predicting.
        workers: processes that read chips.
        balanced: draw training chips with equal chance for every city.
        views: with a frozen backbone, mirror images per chip, 1 to 4.
        early_stopping: stop after so many epochs without a smaller validation loss; null never.
        loggers: Lightning loggers beside CSV and TensorBoard, as class_path and init_args.
    """

    max_epochs: int = 100
    batch_size: int = 128
    workers: int = 0
    balanced: bool = True
    views: int = 1
    early_stopping: int | None = None
    loggers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """What is predicted.

    Args:
        split: train, val, test or all.
        embedding: keep the pooled features too (look-alikes need them).
        chips_per_part: chips a part on disk holds at least; a killed run loses one part at most.
    """

    split: Literal["train", "val", "test", "all"] = "test"
    embedding: bool = True
    chips_per_part: int = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """What predictions are compared with.

    Args:
        colour_baseline: also train a logistic regression on the chips' channel means and deviations.
    """

    colour_baseline: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainConfig:
    """Which chips are explained, and how.

    Args:
        method: relevance-cam-margin, relevance-cam-contrastive, relevance-cam (as published), grad-cam, hires-cam
            or layer-cam.
        layers: depths, of layer1 (fine) to layer4 (coarse).
        target: the city that is explained: predicted (one per scene), true, or a city code.
        per_city: chips of each city that are drawn for the gallery.
        scenes: whose saliency is written as GeoTIFF: those of the drawn chips, or all that were predicted.
    """

    method: str = "relevance-cam-margin"
    layers: tuple[str, ...] = ("layer4",)
    target: str = "predicted"
    per_city: int = 10
    scenes: Literal["drawn", "all"] = "drawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarConfig:
    """Look-alikes.

    Args:
        neighbours: nearest chips of other cities that are listed for each chip.
    """

    neighbours: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MapConfig:
    """The map.

    Args:
        title: what stands above it.
        imagery: embed the imagery of the scenes that are explained.
    """

    title: str = "Which city is this, and what gave it away"
    imagery: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One experiment.

    Args:
        data: the scenes.
        chips: the chips.
        split: the splits.
        model: the network.
        fit: the training.
        predict: the prediction.
        score: the scores.
        explain: the saliency.
        similar: the similarity.
        map: the map.
        seed: seeds training and draws (the split has its own).
    """

    data: DataConfig
    chips: ChipGrid = field(default_factory=ChipGrid)
    split: SplitRule = field(default_factory=SplitRule)
    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    similar: SimilarConfig = field(default_factory=SimilarConfig)
    map: MapConfig = field(default_factory=MapConfig)
    seed: int = 0


SECTIONS: dict[str, type] = {
    "data": DataConfig, "chips": ChipGrid, "split": SplitRule, "model": ModelConfig, "fit": FitConfig,
    "predict": PredictConfig, "score": ScoreConfig, "explain": ExplainConfig, "similar": SimilarConfig,
    "map": MapConfig,
}  # fmt: skip
"""Section of the YAML file → the value that holds it."""

PATHS = (("data", "root"), ("data", "cities"), ("model", "weights"))
"""Keys that hold paths (weights only when it names a file)."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment.

    Args:
        path: YAML file; relative paths in it count from its folder.
        overrides: command-line words such as ``--chips.size 256``; paths in them count from the working folder.

    Raises:
        ConfigError: naming the key, what is wrong with it, and the known ones.
    """
    stored = _read_yaml(Path(path))
    _check_keys(stored, str(path))
    _check_flags(overrides)
    for section, key in PATHS:
        values = stored.get(section)
        if isinstance(values, dict) and _is_path(section, values.get(key)):
            values[key] = os.path.normpath(Path(path).parent.resolve() / str(values[key]))
    parser = build_parser()
    try:
        parsed = parser.parse_args(["--config", json.dumps(stored), *overrides])
    except ArgumentError as error:
        raise ConfigError(f"{path}: {_one_sentence(str(error))}") from None
    sections = {name: kind(**parsed[name].as_dict()) for name, kind in SECTIONS.items()}
    return _anchored(Config(**sections, seed=parsed["seed"]))


def build_parser(prog: str = "dlslicer-geo") -> ArgumentParser:
    """The parser of all keys: jsonargparse knows their types from the classes."""
    from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

    parser = ArgumentParser(prog=prog, exit_on_error=False, add_help=False)
    parser.add_argument("--config", action=ActionConfigFile)
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)
    parser.add_argument("--seed", type=int, default=0, help="seeds training and draws (the split has its own)")
    return parser


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values, in the order of the classes; what ``run.json`` and the outputs' metadata hold."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def dump(config: Config) -> str:
    """The configuration as YAML that :func:`load` reads back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"the experiment file {path} does not exist: give the path of a YAML file") from None
    except IsADirectoryError:
        raise ConfigError(
            f"{path} is a folder: give the YAML file in it, for instance {path / 'config.yaml'}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "it is not text"
        problem = " ".join(str(getattr(error, "problem", None) or "it cannot be read").split())
        raise ConfigError(f"{path} is no YAML ({where}): {problem}") from None
    if not isinstance(stored, dict):
        raise ConfigError(f"{path} holds no sections: known ones are {', '.join(SECTIONS)}, seed")
    return stored


def _check_keys(stored: dict[str, Any], source: str) -> None:
    for name, values in stored.items():
        if name not in SECTIONS and name != "seed":
            raise ConfigError(f"{source}: unknown key {name!r}; known ones are {', '.join(SECTIONS)}, seed")
        if name == "seed":
            continue
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: {name} holds {values!r}: give the keys {', '.join(_keys(name))}")
        for key in values:
            if key not in _keys(name):
                raise ConfigError(f"{source}: unknown key {name}.{key}; known ones are {', '.join(_keys(name))}")


def _check_flags(overrides: Sequence[str]) -> None:
    for word in overrides:
        if not word.startswith("--") or len(word) == 2:
            continue
        section, _, key = word[2:].split("=")[0].partition(".")
        if section not in SECTIONS and section != "seed":
            raise ConfigError(f"unknown option --{section}; known sections are {', '.join(SECTIONS)}, seed")
        if section in SECTIONS and key not in _keys(section):
            known = ", ".join(f"--{section}.{name}" for name in _keys(section))
            raise ConfigError(f"unknown option {word.split('=')[0]}; known ones are {known}")


def _keys(section: str) -> list[str]:
    return [f.name for f in dataclasses.fields(SECTIONS[section])]


def _is_path(section: str, value: Any) -> bool:
    if not isinstance(value, str) or "://" in value or value.startswith("/vsi"):
        return False
    return section == "data" or Path(value).suffix in {".safetensors", ".pt", ".pth", ".ckpt"}


def _anchored(config: Config) -> Config:
    cities = config.data.cities and str(Path(config.data.cities).absolute())
    root = config.data.root if "://" in config.data.root else str(Path(config.data.root).absolute())
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=root, cities=cities))


def _one_sentence(message: str) -> str:
    """What jsonargparse says in several lines, in one."""
    found = re.search(r'Parser key "([\w.]+)":\s*(.*)', message, re.DOTALL)
    if found is None:
        return " ".join(message.split())
    wanted = re.sub(r"<class '(\w+)'>", r"\1", found[2]).replace("typing.", "")
    return f"{found[1]}: {' '.join(wanted.split())}"


def describe(section: str) -> list[tuple[str, str]]:
    """Name and meaning of every key of a section, with its default, as ``--help`` shows them."""
    meanings = _meanings(SECTIONS[section].__doc__ or "")
    described = []
    for key in dataclasses.fields(SECTIONS[section]):
        default = key.default_factory() if callable(key.default_factory) else key.default
        shown = "required" if default is dataclasses.MISSING else f"default {json.dumps(default)}"
        described.append((key.name, f"{meanings.get(key.name, '')} ({shown})"))
    return described


def _meanings(docstring: str) -> dict[str, str]:
    body = docstring.partition("Args:")[2].partition("\n\n")[0]
    found = re.findall(r"^ +(\w+): (.*(?:\n {9,}.*)*)", body, re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".").replace("``", "") for name, text in found}
