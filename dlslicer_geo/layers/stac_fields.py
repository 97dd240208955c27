"""Dates, paths and grids in; the fields of STAC documents out.

Versions of extensions are those of STAC 1.1, where bands, data types and statistics belong to the core; of MLM it is
the last one that pystac reads.
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from dlslicer_geo.files import sha256_file
from dlslicer_geo.layers.rasters import unique_name

CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"

GEOTIFF = "image/tiff; application=geotiff"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"

Span = tuple[datetime, datetime]

EVER: Span = (datetime(1858, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC))
"""What stands for an unknown date, since STAC demands two ends: from the first aerial photograph on. Tables that
count nanoseconds hold both."""

DATA_TYPES = {f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)} - {"float8"}

_DATE = re.compile(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?")
_STORES = {"/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://", "/vsicurl/": ""}
_SCHEMES = {"http", "https", "s3", "gs", "az", "ftp"}


def span_of(acquired: str | None) -> Span:
    """First and last second of a year, month or day; :data:`EVER` where there is no such date."""
    found = _DATE.fullmatch(acquired or "")
    if found is None:
        return EVER
    year, month, day = (int(part) if part else None for part in found.groups())
    try:
        first = datetime(year or 0, month or 1, day or 1, tzinfo=UTC)
        if day is not None:
            after = first + timedelta(days=1)
        elif month is not None:
            after = (first + timedelta(days=31)).replace(day=1)
        else:
            after = first.replace(year=first.year + 1)
    except (ValueError, OverflowError):
        return EVER
    return first, after - timedelta(seconds=1)


def href_of(path: str | Path, start: Path) -> str | None:
    """The address of a file in a document that lies in the folder ``start``.

    Args:
        path: of a file on this machine, which becomes relative; or what lies elsewhere, whose user, password, query
            and fragment are left out.
        start: folder of the document.

    Returns:
        a URI reference; None where GDAL alone could open what it names.
    """
    text = str(path)
    for prefix, scheme in _STORES.items():
        if text.startswith(prefix):
            text = scheme + text.removeprefix(prefix)
    if "://" in text:
        return _public(text)
    if text.startswith("/vsi") or "::" in text:
        return None
    return quote(Path(os.path.relpath(text, start)).as_posix())


def file_fields(path: str | Path, sha256: str | None = None) -> dict[str, Any]:
    """Size and, as a multihash, checksum of a local file; empty for what is not here.

    Args:
        path: the file.
        sha256: of its bytes, where it is known already; ``""`` states no checksum.
    """
    file = Path(path)
    if not file.is_file():
        return {}
    found = sha256_file(file) if sha256 is None else sha256
    checksum = {"file:checksum": f"1220{found}"} if re.fullmatch("[0-9a-f]{64}", found) else {}
    return {"file:size": file.stat().st_size} | checksum


def projection(crs: str, transform: Sequence[float], shape: tuple[int, int]) -> dict[str, Any]:
    """The grid of a raster.

    Args:
        crs: ``authority:code``, or WKT2 of what no authority knows.
        transform: a, b, c, d, e, f: pixel to CRS units.
        shape: rows and columns.
    """
    known = re.fullmatch(r"[A-Za-z]\w*:\w+", crs)
    system: dict[str, Any] = {"proj:code": crs} if known else {"proj:code": None, "proj:wkt2": crs}
    return {**system, "proj:shape": list(shape), "proj:transform": [float(number) for number in transform][:6]}


def data_type(dtype: str) -> str:
    """The name that STAC has for a numpy type."""
    return dtype if dtype in DATA_TYPES else "other"


def nodata(value: float | None) -> dict[str, float | str]:
    """The field for nodata, in which JSON has no NaN."""
    if value is None:
        return {}
    if math.isfinite(value):
        return {"nodata": int(value) if float(value).is_integer() else float(value)}
    return {"nodata": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}


def classes(names: Sequence[str]) -> list[dict[str, Any]]:
    """Cities as classes: their place among the outputs is the value, the code itself the title.

    Descriptions may be shown as Markdown, in which HTML is HTML.

    Args:
        names: city codes in the order of the outputs.
    """
    safe = (unique_name(name).replace(".", "-") for name in names)
    return [
        {"value": value, "name": short, "title": name, "description": html.escape(name)}
        for value, (short, name) in enumerate(zip(safe, names, strict=True))
    ]


def software(provenance: Any) -> dict[str, Any]:
    """Which version made something, and of which configuration."""
    said = {"processing:software": {"dlslicer_geo": str(provenance.get("version", "unknown"))}}
    return said | ({"dlslicer:config_hash": provenance["config_hash"]} if provenance.get("config_hash") else {})


def _public(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return None
    if parts.scheme not in _SCHEMES or not host:
        return None
    return f"{parts.scheme}://{host}{quote(parts.path, safe='/%')}"
