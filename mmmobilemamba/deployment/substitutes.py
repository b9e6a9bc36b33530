"""Layers of other packages, in a form that has a graph for images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptiveAvgPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as a product with a matrix for each axis, as ONNX has no such operator.

    Args:
        output_size (int | tuple[int, int]): Height and width of the result.
    """

    def __init__(self, output_size):
        super().__init__()
        self.output_size = (output_size,) * 2 if isinstance(output_size, int) else tuple(output_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, *output_size)."""
        rows, columns = (bins(size, count, x) for size, count in zip(x.shape[2:], self.output_size))
        return rows @ x @ columns.t()


def bins(size: int, count: int, like: Tensor) -> Tensor:
    """Weights of ``size`` positions in the means of ``count`` bins, (count, size).

    Bin i has the positions from i * size / count, rounded down, to (i + 1) * size / count, rounded up:
    https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html
    """
    position = torch.arange(size, device=like.device) * count
    bin_ = torch.arange(count, device=like.device)[:, None] * size
    inside = ((position + count > bin_) & (position < bin_ + size)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def free_upsample(module: nn.Module) -> nn.Upsample:
    """mmseg's Upsample, which makes sizes whole numbers and so no longer free, as PyTorch's."""
    size = dict(size=module.size) if module.scale_factor is None else dict(scale_factor=module.scale_factor)
    return nn.Upsample(**size, mode=module.mode, align_corners=module.align_corners)


def substitute(model: nn.Module) -> None:
    """Put such forms in the places of a model's layers."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == 'Upsample' and not isinstance(child, nn.Upsample):
                setattr(parent, name, free_upsample(child))
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                setattr(parent, name, AdaptiveAvgPool(child.output_size))
