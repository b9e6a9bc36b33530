"""The Haar transform for graphs that leave PyTorch: convolutions, whose sizes nothing asks for.

An even side gets a row or column more, too, which does nothing. ONNX Runtime is faster at convolutions
than at slices.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import side_of

BANDS = 4
# Of the filters of the bands, (4, 2, 2).
SIGNS = [[[1.0, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
FOR_TRACES = torch.tensor(SIGNS, dtype=torch.float32, device='cpu')


def haar_filter(x: Tensor, weight: Tensor, base: Tensor) -> Tensor:
    """``base`` and the inverse of the filtered transform, in three grouped convolutions.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): Of the depthwise convolution between :func:`~mmmobilemamba.ops.haar_dwt` and
            :func:`~mmmobilemamba.ops.haar_idwt`,
            (4C, 1, k, k).
        base (Tensor): (N, C, H, W).

    Returns:
        Tensor: (N, C, H, W).
    """
    channels = weight.shape[0] // BANDS
    weight = neighbouring_bands(weight)
    bands = F.conv2d(_forward(x, channels), weight, padding=side_of(weight) // 2, groups=BANDS * channels)
    return base + _inverse(bands, base, channels)


def neighbouring_bands(weight: Tensor) -> Tensor:
    """Weights for bands that follow one another, for maps in which the bands of a channel are neighbours."""
    return weight.view(BANDS, -1, *weight.shape[1:]).transpose(0, 1).flatten(0, 1)


def dwt_weight(like: Tensor) -> Tensor:
    """Of the transform as a grouped convolution of stride 2, the bands of a channel neighbours.

    Args:
        like (Tensor): (4C, ...), of the wanted type.

    Returns:
        Tensor: (4C, 1, 2, 2).
    """
    return like.new_tensor(SIGNS)[:, None].repeat(like.shape[0] // BANDS, 1, 1, 1)


def idwt_weight(like: Tensor) -> Tensor:
    """Of the inverse transform as a grouped convolution of one pixel, which ``pixel_shuffle`` follows.

    Args:
        like (Tensor): (4C, ...), of the wanted type.

    Returns:
        Tensor: (4C, 4, 1, 1), of the four pixels of a channel in rows.
    """
    pixels = like.new_tensor(SIGNS).flatten(1).t()[..., None, None]
    return pixels.repeat(like.shape[0] // BANDS, 1, 1, 1)


def haar_dwt_export(x: Tensor) -> Tensor:
    """:func:`~mmmobilemamba.ops.haar_dwt`; the shapes are the same."""
    channels = x.shape[1]
    bands = _forward(x, channels)
    size = (bands.shape[2], bands.shape[3])
    return bands.reshape(-1, channels, BANDS, *size).transpose(1, 2).reshape(-1, BANDS * channels, *size)


def haar_idwt_export(bands: Tensor, base: Tensor) -> Tensor:
    """:func:`~mmmobilemamba.ops.haar_idwt`; the shapes are the same."""
    channels, size = base.shape[1], (bands.shape[2], bands.shape[3])
    bands = bands.reshape(-1, BANDS, channels, *size).transpose(1, 2).reshape(-1, BANDS * channels, *size)
    return base + _inverse(bands, base, channels)


def _haar(like, channels):
    """Weights (4C, 1, 2, 2) of the transform, the four bands of a channel adjacent."""
    if (
        torch.jit.is_tracing()
    ):  # where a tensor that is made has a warning; torch.export refuses one from outside
        signs = FOR_TRACES.to(like.device, like.dtype)
    else:
        signs = torch.tensor(SIGNS, dtype=like.dtype, device=like.device)
    return signs[:, None].repeat(channels, 1, 1, 1)


def _forward(x, channels):
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), _haar(x, channels), stride=2, groups=channels)


def _inverse(bands, base, channels):
    details = F.conv_transpose2d(bands, _haar(bands, channels), stride=2, groups=channels)
    return details[:, :, : base.shape[2], : base.shape[3]]
