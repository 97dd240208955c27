"""A network in; copies of it out that have forgotten their head or, from the head down, stage after stage.

Source: Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018: a map that stays the same when the network
forgets what it has learnt does not show what the network has learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.relevance.networks import depths

HEAD = "head"
"""The first stage that forgets: the classifier, and whatever else lies behind the deepest depth."""


def with_shuffled_head(net: nn.Module, seed: int, trial: int) -> nn.Module:
    """A copy whose classifier reads its inputs in another order: the same weights, each for the wrong feature.

    Args:
        net: a network of timm with a linear classifier.
        seed: seeds all draws.
        trial: number of the draw.

    Raises:
        RelevanceError: if the classifier is not linear.
    """
    changed = copy.deepcopy(net)
    head = _head(changed)
    order = np.random.default_rng((seed, trial)).permutation(head.in_features)
    with torch.no_grad():
        head.weight.copy_(head.weight[:, torch.from_numpy(order).to(head.weight.device)])
    return changed


def cascade(net: nn.Module, shallowest: str, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Re-initialise a copy stage after stage, the head first, each time keeping what was re-initialised before.

    Modules are reset by their own ``reset_parameters``, so a batch norm loses its statistics as well. The copy is
    changed in place: be done with it before the next one is asked for.

    Args:
        net: a network of timm.
        shallowest: the last depth to forget, ``layer1`` … ``layer4``.
        seed: seeds all draws; torch's own generators are left as they were.

    Yields:
        the stage that was reset last and the copy, on the network's device.
    """
    changed, device = copy.deepcopy(net), next(net.parameters()).device
    for number, (stage, modules) in enumerate(stages(changed, shallowest).items()):
        changed.cpu()  # where one seed gives one network, whatever the device
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(np.random.default_rng((seed, number)).integers(2**62)))
            for module in modules.values():
                if _resettable(module):
                    module.reset_parameters()  # type: ignore[operator]
        yield stage, changed.to(device)


def stages(net: nn.Module, shallowest: str) -> dict[str, dict[str, nn.Module]]:
    """All modules by the stage that they belong to, deep to shallow, as far as the shallowest depth that is wanted.

    The stem belongs to the first depth of the network. Relies on modules being registered in the order in which they
    act, as timm does.
    """
    named = dict(net.named_modules())
    place = {name: at for at, name in enumerate(named)}
    last = {
        depth: max(at for name, at in place.items() if f"{name}.".startswith(f"{end}."))
        for depth, end in depths(net).items()
    }
    found: dict[str, dict[str, nn.Module]] = {stage: {} for stage in (HEAD, *reversed(last))}
    for name, module in named.items():
        found[next((depth for depth, at in last.items() if place[name] <= at), HEAD)][name] = module
    order = list(found)
    return {stage: found[stage] for stage in order[: order.index(shallowest) + 1]}


def left_over(net: nn.Module, shallowest: str) -> list[str]:
    """Names of the parameters that :func:`cascade` does not reset, as their module does not say how."""
    return [
        f"{prefix}.{name}".lstrip(".")
        for modules in stages(net, shallowest).values()
        for prefix, module in modules.items()
        if not _resettable(module)
        for name, _ in module.named_parameters(recurse=False)
    ]


def _resettable(module: nn.Module) -> bool:
    return callable(getattr(module, "reset_parameters", None))


def _head(net: nn.Module) -> nn.Linear:
    known = getattr(net, "get_classifier", None)
    head = known() if callable(known) else None
    if not isinstance(head, nn.Linear):
        raise RelevanceError(
            f"the classifier of {type(net).__name__} is {type(head).__name__}, so its inputs cannot be shuffled: "
            "take a network of timm with a linear head"
        )
    return head
