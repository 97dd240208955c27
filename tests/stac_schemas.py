"""Schemas of the STAC extensions that a catalogue uses, and a validator that has them and no network.

pystac brings the schemas of the core along, but no package carries those of extensions. These are written for this
project after the public specifications, named by the extensions' own addresses, and stricter than theirs: what this
project always writes is required.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pystac.validation.stac_validator import JsonSchemaSTACValidator

HOST = "https://stac-extensions.github.io/"
DRAFT = "http://json-schema.org/draft-07/schema#"
TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}
SOME = {"type": "array", "minItems": 1}


def _fields(prefix: str, known: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object none of whose fields with this prefix is unknown."""
    return {
        "type": "object",
        "required": [f"{prefix}:{name}" for name in required],
        "properties": {f"{prefix}:{name}": schema for name, schema in known.items()},
        "patternProperties": {f"^(?!{prefix}:)": {}},
        "additionalProperties": False,
    }


def _extension(name: str, **parts: Any) -> dict[str, Any]:
    """The schema of an extension that a document must name, with schemas of parts of the document."""
    return {
        "$schema": DRAFT,
        "$id": f"{HOST}{name}/schema.json",
        "type": "object",
        "required": ["stac_extensions"],
        "properties": {"stac_extensions": {"contains": {"const": f"{HOST}{name}/schema.json"}}} | parts,
    }


def _each(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": schema}


def _bands(schema: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {"bands": {"type": "array", "items": schema}}}


def _projection() -> dict[str, Any]:
    numbers = {"type": "array", "items": NUMBER}
    known = {
        "code": {"type": ["string", "null"], "pattern": r"^\w+:\w+$"}, "wkt2": TEXT,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
        "transform": numbers | {"minItems": 6, "maxItems": 6}, "bbox": numbers | {"minItems": 4, "maxItems": 4},
    }  # fmt: skip
    fields = _fields("proj", known, ("code", "shape", "transform"))
    unknown = {"properties": {"proj:code": {"const": None}}}
    fields |= {"if": unknown, "then": {"required": ["proj:wkt2"]}, "else": {"not": {"required": ["proj:wkt2"]}}}
    return _extension("projection/v2.0.0", properties=fields)


def _raster() -> dict[str, Any]:
    known = {
        "spatial_resolution": {"type": "number", "exclusiveMinimum": 0}, "scale": NUMBER, "offset": NUMBER,
        "sampling": {"enum": ["area", "point"]}, "bits_per_sample": COUNT,
    }  # fmt: skip
    band = {"required": ["name", "data_type", "raster:spatial_resolution"]} | _fields("raster", known)
    band["required"] = ["name", "data_type", "raster:spatial_resolution"]
    return _extension("raster/v2.0.0", assets=_each(_bands(band)))


def _file() -> dict[str, Any]:
    checksum = {"type": "string", "pattern": "^1220[0-9a-f]{64}$"}  # the multihash of SHA-256
    fields = _fields("file", {"size": COUNT, "checksum": checksum})
    return _extension("file/v2.1.0", assets=_each(fields))


def _processing() -> dict[str, Any]:
    expression = {"type": "object", "required": ["format", "expression"], "properties": {"format": TEXT}}
    known = {
        "software": {"type": "object", "minProperties": 1, "additionalProperties": TEXT}, "lineage": TEXT,
        "level": {"enum": ["RAW", "L1", "L2", "L3", "L4"]}, "expression": expression,
    }  # fmt: skip
    return _extension("processing/v1.2.0", properties=_fields("processing", known, ("software",)))


def _classes() -> dict[str, Any]:
    one = {
        "type": "object", "required": ["value", "name", "description"], "additionalProperties": False,
        "properties": {
            "value": COUNT, "name": {"type": "string", "pattern": "^[0-9A-Za-z_-]+$"}, "title": {"type": "string"},
            "description": {"type": "string", "pattern": "^[^<>]*$"},
        },
    }  # fmt: skip
    return SOME | {"items": one, "uniqueItems": True}


def _classification() -> dict[str, Any]:
    return _extension("classification/v2.0.0", assets=_each(_fields("classification", {"classes": _classes()})))


def _tensor(order: list[str]) -> dict[str, Any]:
    size = {"type": "integer", "minimum": -1, "not": {"const": 0}}
    return {
        "type": "object", "required": ["shape", "dim_order", "data_type"], "additionalProperties": False,
        "properties": {
            "shape": {"type": "array", "items": size, "minItems": len(order), "maxItems": len(order)},
            "dim_order": {"const": order}, "data_type": {"const": "float32"},
        },
    }  # fmt: skip


def _model() -> dict[str, Any]:
    scaling = {
        "type": "object", "required": ["type", "mean", "stddev"], "additionalProperties": False,
        "properties": {"type": {"const": "z-score"}, "mean": NUMBER, "stddev": {"exclusiveMinimum": 0}},
    }  # fmt: skip
    tasks = {"const": ["scene-classification"]}
    seen = {
        "type": "object", "required": ["name", "bands", "input", "value_scaling"],
        "properties": {
            "name": TEXT, "bands": {"const": ["red", "green", "blue"]},
            "input": _tensor(["batch", "bands", "height", "width"]),
            "value_scaling": {"type": "array", "items": scaling, "minItems": 3, "maxItems": 3},
            "resize_type": {"const": "interpolation-linear"},
        },
    }  # fmt: skip
    said = {
        "type": "object", "required": ["name", "tasks", "result", "classification:classes"],
        "properties": {
            "name": TEXT, "tasks": tasks, "result": _tensor(["batch", "class"]),
            "classification:classes": _classes(),
        },
    }  # fmt: skip
    known = {
        "name": {"type": "string", "pattern": r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"}, "architecture": TEXT,
        "tasks": tasks, "framework": {"const": "PyTorch"}, "framework_version": {"pattern": r"^\d+\.\d+\.\d+"},
        "total_parameters": COUNT, "pretrained": {"type": "boolean"}, "pretrained_source": {"const": None},
        "input": SOME | {"items": seen}, "output": SOME | {"items": said},
        "hyperparameters": {"type": "object", "propertyNames": {"pattern": "^[0-9a-zA-Z_.-]+$"}, "minProperties": 1},
    }  # fmt: skip
    fields = _fields("mlm", known, ("name", "architecture", "tasks", "framework", "input", "output"))
    fields["required"].append("bands")  # what the names of the input's bands refer to
    weights = {
        "required": ["roles", "mlm:artifact_type"],
        "properties": {"roles": {"contains": {"const": "mlm:model"}}, "mlm:artifact_type": TEXT},
    }
    assets = {"type": "object", "required": ["model"], "properties": {"model": weights}}
    return _extension("mlm/v1.4.0", properties=fields, assets=assets)


SCHEMAS = {s["$id"]: s for s in (_projection(), _raster(), _file(), _processing(), _classification(), _model())}
"""Schemas by the address of the extension."""


def validator() -> JsonSchemaSTACValidator:
    """pystac's own validator, which finds these schemas among those it has."""
    made = JsonSchemaSTACValidator()
    made.schema_cache.update(SCHEMAS)
    return made


_listening: list[list[str]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        _listening[-1].append(f"{event} {arguments[-1]!r}")
        raise OSError("the network is blocked")


sys.addaudithook(_hear)


@contextmanager
def no_network() -> Iterator[list[str]]:
    """While inside, asking for the network fails and is written down in the list."""
    asked: list[str] = []
    _listening.append(asked)
    try:
        yield asked
    finally:
        _listening.pop()
