"""uint8 images in, resampled and mirrored images out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Antialiased bilinear resampling of uint8 (B, C, H, W) to uint8 (B, C, size, size), channels last in memory.

    On the CPU by torch's own kernel for uint8, which weighs in integers and rounds after each of the two directions:
    an eleventh of the time of floats, and within 1 grey level of them. It works across the columns first and then
    along the rows, image by image, so that the two can be done one after the other. Elsewhere in float32, rounded
    half to even.

    Args:
        images: uint8 (B, C, H, W).
        size: edge of the result, or rows and columns.
    """
    shape = (size, size) if isinstance(size, int) else size
    if tuple(images.shape[-2:]) == shape:
        return images
    if images.device.type == "cpu":
        ordered = images.contiguous(memory_format=torch.channels_last)
        return functional.interpolate(ordered, shape, mode="bilinear", antialias=True)
    resampled = functional.interpolate(images.float(), shape, mode="bilinear", antialias=True)
    return resampled.round().clamp(0, 255).to(torch.uint8)


def flip(images: Tensor) -> Tensor:
    """Mirror each image left–right and top–bottom with chance one half each.

    Args:
        images: (B, C, H, W) of any dtype; drawn from torch's global generator.
    """
    for axis in (-1, -2):
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(chosen, images.flip(axis), images)
    return images
