"""A file that ``torch.save`` wrote in, its object as inert values and the tensors asked for out.

Both formats are read here, the zip file and the older one. No size that a file declares is believed before the file
was found to be that large, and numbers are read when somebody asks for them, after their shapes were checked.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlslicer_geo.errors import ModelError
from dlslicer_geo.model.pickles import Storage, Stored, interpret, printable

MAX_PICKLE = 64 << 20  # bytes; ResNet-101 needs 0.4 MB
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True, slots=True)
class Pickled:
    """An open file.

    Args:
        root: the object that was saved: plain values, dictionaries, :class:`Module` and :class:`Stored`.
        form: ``zip`` or ``legacy``.
    """

    root: Any
    form: str
    _numbers_of: Callable[[Storage], Tensor]

    def tensor(self, stored: Stored) -> Tensor:
        """Read the numbers of a tensor.

        Raises:
            ModelError: with the reason alone, if the file does not hold them.
        """
        storage = stored.storage
        ends = [(size - 1) * step for size, step in zip(stored.shape, stored.stride, strict=True)]
        negative = min((stored.offset, *stored.stride)) < 0 or min(stored.shape, default=1) < 1
        if negative or stored.offset + sum(ends) >= storage.numel:
            raise ModelError(f"a tensor of shape {stored.shape} reaches beyond its {storage.numel} stored numbers")
        seen = self._numbers_of(storage).as_strided(stored.shape, stored.stride, stored.offset)
        return seen.clone(memory_format=torch.contiguous_format)


@contextmanager
def opened(path: Path) -> Iterator[Pickled]:
    """Open a file of either format of ``torch.save``.

    Raises:
        ModelError: with the reason alone, if it is damaged, is something else or names what is not listed.
    """
    with path.open("rb") as handle:
        start = handle.read(4)
    try:
        if start == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                yield _from_zip(archive, path.stat().st_size)
        elif not start:
            raise ModelError("it is empty")
        else:
            with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                yield _from_legacy(mapped)
    except (zipfile.BadZipFile, RuntimeError, ValueError, OverflowError, EOFError, OSError, struct.error) as error:
        said = printable((str(error) or type(error).__name__).splitlines()[0])
        raise ModelError(f"it is damaged ({said})") from None


def _from_zip(archive: zipfile.ZipFile, size: int) -> Pickled:
    inside = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in inside if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ModelError("it is a zip file without a data.pkl, which torch.save writes")
    prefix = pickles[0].removesuffix("data.pkl")

    def member(name: str, most: int) -> bytes:
        info = inside.get(name)
        if info is None:
            raise ModelError(f"it is damaged ({printable(name)} is missing)")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > min(most, size):
            raise ModelError(f"{printable(name)} in it declares {info.file_size} bytes, more than can be right")
        return archive.read(info)  # checks the CRC

    if f"{prefix}byteorder" in inside and member(f"{prefix}byteorder", 16) != b"little":
        raise ModelError("its numbers are big-endian: save it again on a little-endian machine")

    def bytes_of(storage: Storage) -> bytes:
        wanted = storage.numel * storage.dtype.itemsize
        found = member(f"{prefix}data/{storage.key}", wanted)
        if len(found) != wanted:
            raise ModelError(f"it is damaged ({len(found)} bytes where {wanted} should be)")
        return found

    root, storages = interpret(member(pickles[0], MAX_PICKLE))
    if (named := sum(storage.numel * storage.dtype.itemsize for storage in storages.values())) > size:
        raise ModelError(f"it names {named} bytes of numbers, but is {size} bytes long")
    return Pickled(root, "zip", _once(bytes_of))


def _from_legacy(mapped: mmap.mmap) -> Pickled:
    if interpret(mapped)[0] != _LEGACY_MAGIC or interpret(mapped)[0] != _LEGACY_PROTOCOL:
        raise ModelError("it is a pickle, but torch.save did not write it")
    interpret(mapped)  # says of what size C's integers were; PyTorch ignores it
    root, storages = interpret(mapped)
    keys, _ = interpret(mapped)
    places: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else ():
        storage = storages.get(key) if isinstance(key, str) else None
        length = mapped.read(8)
        if storage is None or length != struct.pack("<q", storage.numel):
            raise ModelError("it is damaged (what follows the pickle is not what the pickle names)")
        places[storage.key] = mapped.tell()
        end = mapped.tell() + storage.numel * storage.dtype.itemsize
        if end > mapped.size():
            raise ModelError(f"it is cut off: {end} bytes are named, {mapped.size()} are there")
        mapped.seek(end)

    def bytes_of(storage: Storage) -> bytes:
        at = places.get(storage.key)
        if at is None:
            raise ModelError(f"it is damaged (the numbers {printable(storage.key)} are missing)")
        return mapped[at : at + storage.numel * storage.dtype.itemsize]

    return Pickled(root, "legacy", _once(bytes_of))


def _once(bytes_of: Callable[[Storage], bytes]) -> Callable[[Storage], Tensor]:
    """Tensors may share their numbers, which are then read once."""
    return cache(lambda storage: torch.frombuffer(bytearray(bytes_of(storage)), dtype=storage.dtype))
