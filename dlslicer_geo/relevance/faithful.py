"""A network, images and maps in; how the probability of a city follows the pixels that the maps point at out.

Two tests of faithfulness, each per image: insertion and deletion (Petsiuk et al., *RISE*, BMVC 2018), average drop
and increase (Chattopadhay et al., *Grad-CAM++*, WACV 2018). They are known to rank methods badly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from dlslicer_geo.types import bilinear

STEPS = 8
"""Equal parts in which pixels are put in or taken out; each costs two forward passes."""

BLUR = 8
"""What stands where a pixel is missing: the image blurred with a sigma of its edge divided by this."""

AT_ONCE = 16
"""Images in one forward pass."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """Images whose pixels are taken out and put back.

    Args:
        images: (n, 3, H, W) normalised input.
        blurred: the same without detail.
        target: (n,) int64 class whose probability is watched.
        whole: (n,) float64 its probability in the images.
        empty: (n,) float64 its probability in the blurred images.
    """

    images: Tensor
    blurred: Tensor
    target: Tensor
    whole: Tensor
    empty: Tensor


def subjects(net: nn.Module, images: Tensor, target: Tensor) -> Subjects:
    """Blur images and look at both ends of every curve once; the network must be in evaluation mode."""
    sigma = images.shape[-1] / BLUR
    smooth = gaussian_filter(images.double().cpu().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=3)
    blurred = torch.from_numpy(smooth).to(images)
    whole, empty = probability(net, images, target), probability(net, blurred, target)
    return Subjects(images=images, blurred=blurred, target=target, whole=whole, empty=empty)


@torch.no_grad()
def probability(net: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """(n,) float64 softmax probability of one class per image, on the CPU."""
    parts = zip(torch.split(images, AT_ONCE), torch.split(target, AT_ONCE), strict=True)
    chances = [  # channels last halves the time on a CPU
        net(x.contiguous(memory_format=torch.channels_last))
        .cpu()  # before double, which not every device has
        .double()
        .softmax(dim=1)
        .gather(1, wanted.cpu()[:, None])[:, 0]
        for x, wanted in parts
    ]
    return torch.cat(chances)


def insertion_deletion(net: nn.Module, shown: Subjects, maps: Tensor, shift: float = 0.0) -> tuple[Floats, Floats]:
    """Areas under the probability as pixels come in, and as they go out, those of the highest relevance first.

    Pixels come and go in :data:`STEPS` equal parts, by the map enlarged bilinearly. A missing pixel is that of the
    blurred image.

    Args:
        net: the network, in evaluation mode.
        shown: the images.
        maps: (n, h, w) raw maps.
        shift: of their layer, as in :class:`~dlslicer_geo.types.Saliency`.

    Returns:
        insertion and deletion, each (n,), 0 to 1; NaN where a map is constant.
    """
    order = enlarged(maps, shown.images, shift).flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view(len(maps), 1, *shown.images.shape[-2:])
    inserted, deleted = [shown.empty], [shown.whole]
    for step in range(1, STEPS):
        top = rank < order.shape[1] * step / STEPS
        inserted.append(probability(net, torch.where(top, shown.images, shown.blurred), shown.target))
        deleted.append(probability(net, torch.where(top, shown.blurred, shown.images), shown.target))
    flat = constant(maps).cpu()
    curves = (torch.stack([*inserted, shown.whole]), torch.stack([*deleted, shown.empty]))
    insertion, deletion = (torch.trapezoid(curve, dx=1 / STEPS, dim=0) for curve in curves)
    return insertion.masked_fill(flat, torch.nan).numpy(), deletion.masked_fill(flat, torch.nan).numpy()


def drop_increase(net: nn.Module, shown: Subjects, maps: Tensor, shift: float = 0.0) -> tuple[Floats, Floats]:
    """What is lost of the probability when the image is dimmed where its map is low, and whether it rises instead.

    The map, enlarged and stretched to 0…1 per image, multiplies the normalised input, so that what is masked goes to
    the mean colour.

    Returns:
        drop (n,), 0 to 1, and increase (n,), 0 or 1, arguments as of :func:`insertion_deletion`; NaN where a map is
        constant.
    """
    large = enlarged(maps, shown.images, shift)
    low, high = large.amin(dim=(2, 3), keepdim=True), large.amax(dim=(2, 3), keepdim=True)
    flat = constant(maps).to(large.device)
    mask = (large - low) / (high - low).masked_fill(flat[:, None, None, None], 1)
    masked = probability(net, shown.images * mask, shown.target)
    drop = (shown.whole - masked).clamp(min=0) / shown.whole.clamp(min=torch.finfo(torch.float64).tiny)
    increase = (masked > shown.whole).double()
    return drop.masked_fill(flat.cpu(), torch.nan).numpy(), increase.masked_fill(flat.cpu(), torch.nan).numpy()


def enlarged(maps: Tensor, images: Tensor, shift: float) -> Tensor:
    """(n, 1, H, W) maps (n, h, w) at the size of images, each cell where it looks; device and dtype of the images."""
    sizes = zip(maps.shape[1:], images.shape[-2:], strict=True)
    down, across = (torch.from_numpy(bilinear(n, cells, shift)).to(images) for n, cells in sizes)
    return (down @ maps.to(images) @ across.T)[:, None]


def constant(maps: Tensor) -> Tensor:
    """(n,) whether a map (n, h, w) has no more range than its numbers have noise, or is not finite."""
    flat = maps.flatten(1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    noise = 4 * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())
    return ~(high - low > noise)  # so that NaN counts as well
