"""Paths and values in, whole files out: atomic writes, hashes, tables checked when read back.

A reader never sees half a file: everything is written under a temporary name in the same folder, flushed to disk
and renamed. This is the one door to the disk that every room shares.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.errors import TableError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame

PROVENANCE_KEY = "dlslicer_geo"
"""Name under which the provenance of a file stands in its metadata."""


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it there when the block ends well, remove it otherwise.

    The suffix is kept, because writers choose their format by it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON-like value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write a JSON-like value atomically, indented, keys in the order given."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON.

    Raises:
        TableError: if the file is absent, cannot be read or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TableError(f"{path} does not exist: run the station that writes it first") from None
    except OSError as error:
        raise TableError(f"{path} cannot be read ({error.strerror}): run the station that writes it again") from None
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path} is no JSON ({error}): delete it and run the station that writes it") from None


def write_table(
    table: DataFrame | GeoDataFrame, path: str | os.PathLike[str], provenance: Mapping[str, str] | None = None
) -> Path:
    """Write Parquet, or GeoParquet 1.1 (WKB, bbox column), atomically, the provenance in its metadata.

    Args:
        table: a frame with a geometry in EPSG:4326, or without any.
        path: ends in ``.parquet``.
        provenance: names and values for the key ``dlslicer_geo`` of the file's metadata.
    """
    import pyarrow.parquet as pq
    from pandas import ArrowDtype

    with atomic(path) as temporary:
        spatial: dict[str, Any] = {"schema_version": "1.1.0", "write_covering_bbox": True}
        table.to_parquet(temporary, index=False, **(spatial if "geometry" in table.columns else {}))
        if provenance:
            arrow = pq.read_table(temporary)
            metadata = {**(arrow.schema.metadata or {}), PROVENANCE_KEY: json.dumps(dict(provenance), sort_keys=True)}
            if any(isinstance(kind, ArrowDtype) for kind in table.dtypes):
                metadata.pop(b"pandas", None)  # pandas cannot read its own names of columns of lists
            pq.write_table(arrow.replace_schema_metadata(metadata), temporary)
    return Path(path)


def read_table(path: str | os.PathLike[str], columns: Mapping[str, str]) -> GeoDataFrame:
    """Read GeoParquet and check that it is what its writer promised.

    Args:
        path: the file.
        columns: name → kind: ``str``, ``int``, ``float``, ``bool``, ``any``; a trailing ``?`` allows nulls.

    Raises:
        TableError: naming the file, the column and what is wrong with it.
    """
    import geopandas as gpd

    try:
        table = gpd.read_parquet(path)
    except FileNotFoundError:
        raise TableError(f"{path} does not exist: run the station that writes it first") from None
    except (OSError, ValueError) as error:
        raise TableError(f"{path} is no GeoParquet table ({str(error).splitlines()[0]}): write it again") from None
    check_table(table, columns, str(path))
    return table


def check_table(table: GeoDataFrame, columns: Mapping[str, str], name: str) -> None:
    """Check a frame against its documented columns.

    Raises:
        TableError: naming the table, the column and what is wrong with it.
    """
    from pandas.api import types

    checks = {
        "str": _all_text, "int": types.is_integer_dtype, "float": types.is_numeric_dtype,
        "bool": types.is_bool_dtype, "any": _anything,
    }  # fmt: skip
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise TableError(f"{name} has no column {', '.join(missing)}: write the table again with this version")
    for column, kind in columns.items():
        values = table[column]
        nulls = int(values.isna().sum())
        if nulls and not kind.endswith("?"):
            raise TableError(f"{name}, column {column}: {nulls} of {len(values)} values are missing")
        if not checks[kind.rstrip("?")](values.dropna() if nulls else values):
            raise TableError(f"{name}, column {column}: holds {values.dtype}, expected {kind.rstrip('?')}")


def provenance_of(path: str | os.PathLike[str]) -> dict[str, str]:
    """The provenance a GeoParquet file carries; empty when it carries none."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    return dict(json.loads(metadata.get(PROVENANCE_KEY.encode(), b"{}")))


def _all_text(values: Any) -> bool:
    return all(isinstance(value, str) for value in values.unique())


def _anything(values: Any) -> bool:
    return True
