"""A YAML file and command-line overrides in, one frozen ``Config`` out, and back."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dlslicer_geo.config.sections import (
    SECTIONS,
    CheckConfig,
    Config,
    DataConfig,
    ExplainConfig,
    FitConfig,
    ModelConfig,
    PredictConfig,
    ProbeConfig,
    ScoreConfig,
    SimilarConfig,
)
from dlslicer_geo.config.shown import CatalogConfig, MapConfig
from dlslicer_geo.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = [
    "BESIDE", "SECTIONS", "CatalogConfig", "CheckConfig", "Config", "DataConfig", "ExplainConfig", "FitConfig",
    "MapConfig", "ModelConfig", "PredictConfig", "ProbeConfig", "ScoreConfig", "SimilarConfig", "build_parser",
    "describe", "dump", "is_address", "load", "of_images", "to_dict",
]  # fmt: skip

BESIDE = (
    ("split", "given"), ("check", "twin"), ("score", "against"), ("explain", "within"), ("explain", "polygons"),
)  # fmt: skip
"""Section and key of what a station reads beside the images and the run folder."""

PATHS = (("data", "root"), ("data", "cities"), ("data", "sidecar"), ("model", "weights"), *BESIDE)
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
    return _parsed(stored, overrides, str(path))


def of_images(root: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of images without an experiment file: their city is unknown unless an option says more.

    Args:
        root: as ``data.root``; a relative path counts from the working folder.
        overrides: command-line words such as ``--data.crs EPSG:32643``.

    Raises:
        ConfigError: naming the key, what is wrong with it, and the known ones.
    """
    _check_flags(overrides)
    return _parsed({"data": {"root": root, "pattern": None}}, overrides, "the command line")


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


def _parsed(stored: dict[str, Any], overrides: Sequence[str], source: str) -> Config:
    try:
        parsed = build_parser().parse_args(["--config", json.dumps(stored), *overrides])
    except ArgumentError as error:
        raise ConfigError(f"{source}: {_one_sentence(str(error))}") from None
    sections = {name: kind(**parsed[name].as_dict()) for name, kind in SECTIONS.items()}
    return _anchored(Config(**sections, seed=parsed["seed"]))


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
    if not isinstance(value, str) or is_address(value):
        return False
    return section != "model" or Path(value).suffix in {".safetensors", ".pt", ".pth", ".ckpt"}


def _anchored(config: Config) -> Config:
    data = config.data
    given = {"root": data.root, "cities": data.cities, "sidecar": data.sidecar}
    paths = {key: str(Path(value).absolute()) for key, value in given.items() if value and not is_address(value)}
    beside: dict[str, dict[str, Any]] = {}
    for section, key in BESIDE:
        value = getattr(getattr(config, section), key)
        beside.setdefault(section, {})[key] = value and str(Path(value).absolute())
    anchored = {section: dataclasses.replace(getattr(config, section), **keys) for section, keys in beside.items()}
    return dataclasses.replace(config, data=dataclasses.replace(data, **paths), **anchored)  # type: ignore[arg-type]


def is_address(value: str) -> bool:
    """Whether a path belongs to GDAL or a network, and not to the file system."""
    return "://" in value or "::" in value or value.startswith("/vsi")


def _one_sentence(message: str) -> str:
    """What jsonargparse says in several lines, in one."""
    found = re.search(r'Parser key "([\w.]+)":\s*(.*)', message, re.DOTALL)
    if found is None:
        return " ".join(message.split())
    wanted = re.sub(r"<class '(\w+)'>", r"\1", found[2]).replace("typing.", "")
    return f"{found[1]}: {' '.join(wanted.split())}"


def describe(section: str) -> list[tuple[str, str]]:
    """Name and meaning of every key of a section, with its default, as ``--help`` shows them."""
    meanings: dict[str, str] = {}
    for kind in SECTIONS[section].__mro__:
        meanings = _meanings(kind.__doc__ or "") | meanings
    described = []
    own = SECTIONS[section].__annotations__
    for key in sorted(dataclasses.fields(SECTIONS[section]), key=lambda field: field.name not in own):
        default = key.default_factory() if callable(key.default_factory) else key.default
        shown = "required" if default is dataclasses.MISSING else f"default {json.dumps(default)}"
        described.append((key.name, f"{meanings.get(key.name, '')} ({shown})"))
    return described


def _meanings(docstring: str) -> dict[str, str]:
    body = docstring.partition("Args:")[2].partition("\n\n")[0]
    found = re.findall(r"^ +(\w+): (.*(?:\n {9,}.*)*)", body, re.MULTILINE)
    plain = {name: " ".join(text.split()).rstrip(".").replace("``", "") for name, text in found}
    return {name: re.sub(r"\bNone\b", "null", text) for name, text in plain.items()}
