"""The Haar transform for graphs that leave PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def haar_filter(x: Tensor, weight: Tensor, base: Tensor) -> Tensor:
    """``base`` and the inverse of the filtered transform, for graphs that leave PyTorch.

    Three grouped convolutions, which ONNX Runtime is faster at than at slices.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): Of the depthwise convolution between :func:`~mmmobilemamba.ops.haar_dwt` and
            :func:`~mmmobilemamba.ops.haar_idwt`,
            (4C, 1, k, k).
        base (Tensor): (N, C, H, W).

    Returns:
        Tensor: (N, C, H, W).
    """
    channels, height, width = x.shape[1:]
    signs = [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
    haar = torch.tensor(signs, dtype=x.dtype, device=x.device)[:, None].repeat(channels, 1, 1, 1)
    # Here the four bands of a channel are neighbours.
    weight = weight.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1)
    # A row and a column more: an odd side needs them, and at an even one they do nothing. Nothing is asked.
    bands = F.conv2d(F.pad(x, (0, 1, 0, 1)), haar, stride=2, groups=channels)
    bands = F.conv2d(bands, weight, padding=weight.shape[2] // 2, groups=4 * channels)
    details = F.conv_transpose2d(bands, haar, stride=2, groups=channels)
    return base + details[:, :, :height, :width]
