"""Replacements for layers of other packages that cannot be exported with dynamic sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptiveAvgPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as one matrix product per axis; ONNX has no such operator.

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
    """Return the weights of ``size`` positions in the averages of ``count`` bins, (count, size).

    Bin i covers the positions from i * size / count, rounded down, to (i + 1) * size / count, rounded up.
    Source: https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html

    Args:
        size (int): Number of positions.
        count (int): Number of bins.
        like (Tensor): The result has its dtype and device.
    """
    position = torch.arange(size, device=like.device) * count
    bin_ = torch.arange(count, device=like.device)[:, None] * size
    inside = ((position + count > bin_) & (position < bin_ + size)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def free_upsample(module: nn.Module) -> nn.Upsample:
    """Convert mmseg's Upsample to PyTorch's; mmseg's casts sizes to int, which makes them static."""
    size = dict(size=module.size) if module.scale_factor is None else dict(scale_factor=module.scale_factor)
    return nn.Upsample(**size, mode=module.mode, align_corners=module.align_corners)


def substitute(model: nn.Module) -> None:
    """Replace the ``Upsample`` and ``AdaptiveAvgPool2d`` layers of a model, in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == 'Upsample' and not isinstance(child, nn.Upsample):
                setattr(parent, name, free_upsample(child))
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                setattr(parent, name, AdaptiveAvgPool(child.output_size))
