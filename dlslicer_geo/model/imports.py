"""A checkpoint that the authors of DL-SLICER released in, a ``model.ckpt`` of this package out.

The authors saved whole networks (a pickled ``DataParallel`` around a ResNet). Nothing in such a file is run: see
``pickles`` for what is read, and ``torchfiles`` for how.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dlslicer_geo.errors import ModelError
from dlslicer_geo.files import PROVENANCE_KEY, atomic, sha256_file
from dlslicer_geo.model.classifier import CityClassifier
from dlslicer_geo.model.pickles import Module, Stored, printable
from dlslicer_geo.model.torchfiles import opened

logger = logging.getLogger(__name__)

NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101")
"""What can be imported; timm and torchvision name their tensors alike."""

CHIP: Mapping[str, float | None] = {"size": 480, "stride": 240, "metres": 200.0}
"""The chips of the publication."""

INPUT_SIZE = 224
INSIDE = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
)  # where others keep the network in a dictionary
MOST = 5000  # tensors or modules; ResNet-101 has 626
UNUSED = "num_batches_tracked"  # absent from files of old versions, and of no use to a trained network


def import_checkpoint(
    path: str | Path,
    out: str | Path,
    *,
    cities: Sequence[str],
    chip: Mapping[str, float | None] = CHIP,
) -> Path:
    """Turn a ResNet that somebody else saved with ``torch.save`` into a checkpoint of this package.

    The file may hold a whole network, with or without ``DataParallel``, its state dict, or a dictionary with one of
    them. The new checkpoint gives the logits of the original for chips scaled to 224 pixels and normalised with
    ImageNet's mean and standard deviation, as in the publication.

    Args:
        path: file of either format of ``torch.save``.
        out: folder that gets ``model.ckpt``, which :func:`dlslicer_geo.model.load` reads.
        cities: city codes in the order of the network's outputs.
        chip: size and stride in pixels and edge in metres of the chips that the network was trained on.

    Returns:
        the new file. Its key ``dlslicer_geo`` names the source, its SHA-256 and the network.

    Raises:
        ModelError: if the file is damaged, holds anything beside a ResNet (which is then not run), holds another
            network than the four that are known, or has another number of outputs than there are cities.
    """
    file, cities = Path(path), list(cities)
    if not cities or len(set(cities)) < len(cities):
        raise ModelError(f"{len(cities)} cities with {len(set(cities))} codes were given: name each output once")
    try:
        name, state, form = _network_of(file, len(cities))
        digest = sha256_file(file)
    except ModelError as error:
        raise ModelError(f"{file} cannot be imported: {error}") from None
    except FileNotFoundError:
        raise ModelError(f"{file} does not exist: give the checkpoint that was downloaded") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror}): give a checkpoint file") from None
    model = CityClassifier(name, cities=cities, weights=False, input_size=INPUT_SIZE, chip=chip)
    model.model.load_state_dict(state, strict=False)  # _network_of found all of them
    origin = {"source": file.name, "sha256": digest, "format": form, "network": name}
    logger.info("%s is a %s with %d outputs", file, name, len(cities))
    return _write(model, Path(out) / "model.ckpt", origin)


def _write(model: CityClassifier, target: Path, origin: dict[str, str]) -> Path:
    import lightning

    stored = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
        PROVENANCE_KEY: origin,
    }
    with atomic(target) as temporary, temporary.open("wb") as handle:
        torch.save(stored, handle)  # given a path, torch would write its name into the file
    return target


def _network_of(file: Path, outputs: int) -> tuple[str, dict[str, Tensor], str]:
    """Name of the network, its tensors by timm's names, and the format of the file."""
    with opened(file) as pickled:
        root = _unwrapped(pickled.root)
        found = dict(islice(_tensors(root), MOST)) if isinstance(root, Module) else _plain(root)
        found = {_without_prefix(key): value for key, value in found.items() if not key.endswith(UNUSED)}
        _check_outputs(found, outputs)
        name, net = _recognised(found, outputs)
        if isinstance(root, Module):
            _check_layers(root, net, name)
        state = {key: pickled.tensor(value).float() for key, value in found.items()}
        damaged = [key for key, value in state.items() if not value.isfinite().all()]
        if damaged:
            raise ModelError(f"{damaged[0]} holds numbers that are not finite: it is damaged, download it again")
        return name, state, pickled.form


def _unwrapped(root: Any) -> Any:
    """The network or state dict in a file."""
    if isinstance(root, dict):
        for key in INSIDE:
            if isinstance(root.get(key), dict | Module):
                return root[key]
    return root


def _tensors(module: Module) -> Iterator[tuple[str, Stored]]:
    """Names and tensors of a network."""
    for prefix, part in _modules(module):
        for group in ("_parameters", "_buffers"):
            values = part.state.get(group, {})
            for name, value in values.items() if isinstance(values, dict) and len(values) <= MOST else ():
                if isinstance(value, Stored):
                    yield f"{prefix}{name}", value


def _modules(root: Module) -> Iterator[tuple[str, Module]]:
    """Every module with its dotted name and a dot, the outermost first."""
    waiting, seen = [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        yield prefix, module
        parts = module.state.get("_modules", {})
        for name, part in reversed(parts.items()) if isinstance(parts, dict) else ():
            seen += 1
            if seen > MOST or len(prefix) + len(str(name)) > 200:
                raise ModelError("its modules are too many or stand in each other: it is none of our networks")
            if isinstance(part, Module):
                waiting.append((f"{prefix}{name}.", part))


def _plain(root: Any) -> dict[str, Stored]:
    """A state dict as it was saved."""
    values = root if isinstance(root, dict) else {}
    if not values or len(values) > MOST or not all(isinstance(value, Stored) for value in values.values()):
        kinds = Counter(type(value).__name__ for value in values.values())
        held = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or type(root).__name__
        raise ModelError(f"it holds neither a network nor a state dict (but {held}): give a checkpoint of a ResNet")
    return {str(key): value for key, value in values.items()}


def _without_prefix(key: str) -> str:
    return key.removeprefix("module.").removeprefix("model.")


def _check_outputs(found: Mapping[str, Stored], outputs: int) -> None:
    head = found.get("fc.weight")
    if head is None or len(head.shape) != 2:
        first = printable(next(iter(found), "nothing"))
        raise ModelError(f"it has no last layer fc ({len(found)} tensors, {first} first): it is no ResNet")
    if head.shape[0] != outputs:
        raise ModelError(f"its network has {head.shape[0]} outputs, but {outputs} cities were given: give as many")


def _recognised(found: Mapping[str, Stored], outputs: int) -> tuple[str, nn.Module]:
    """The network whose tensors have these names and shapes, without memory of its own."""
    reasons = []
    for name in NETWORKS:
        with torch.device("meta"):
            net: nn.Module = timm.create_model(name, pretrained=False, num_classes=outputs)
        wanted = {key: tuple(value.shape) for key, value in net.state_dict().items() if not key.endswith(UNUSED)}
        wrong = [key for key in {**wanted, **found} if key not in found or found[key].shape != wanted.get(key)]
        if not wrong:
            return name, net
        reasons.append((len(wrong), f"{_difference(wrong[0], found, wanted)} {name}"))
    number, nearest = min(reasons)
    raise ModelError(f"its network is none of {', '.join(NETWORKS)}: {nearest} ({number} tensors differ)")


def _difference(key: str, found: Mapping[str, Stored], wanted: Mapping[str, tuple[int, ...]]) -> str:
    if key not in found:
        return f"it lacks {key} of"
    if key not in wanted:
        return f"its {printable(key)} is absent from"
    return f"its {key} has shape {found[key].shape}, not {wanted[key]} as in"


def _check_layers(root: Module, net: nn.Module, name: str) -> None:
    """Tensors of the same shape may be used in another way: the stride of older ResNets sat in another layer."""
    layers = dict(net.named_modules())
    for prefix, part in _modules(root):
        layer = layers.get(_without_prefix(prefix).rstrip("."))
        for setting in ("kernel_size", "stride", "padding", "dilation", "groups", "eps"):
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d) and hasattr(layer, setting):
                stored, known = (_pair(value) for value in (part.state.get(setting), getattr(layer, setting)))
                if stored != known:
                    raise ModelError(
                        f"its {printable(prefix + setting)} is {stored or 'unknown'}, not {known} as in {name}: "
                        "it computes other logits from the same tensors"
                    )


def _pair(value: Any) -> tuple[float, float] | None:
    """A setting for both axes; None where it is no number."""
    pair = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    return pair if all(isinstance(number, int | float) for number in pair) else None
