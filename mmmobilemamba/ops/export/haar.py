"""The Haar transform for exported graphs, as convolutions that depend on no size of the map.

Even sides are padded too, which does not change the result. ONNX Runtime runs convolutions faster than
slices.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import side_of

BANDS = 4
# Signs of the filters of the sub-bands, (4, 2, 2).
SIGNS = [[[1.0, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
FOR_TRACES = torch.tensor(SIGNS, dtype=torch.float32, device='cpu')


def haar_filter(x: Tensor, weight: Tensor, base: Tensor) -> Tensor:
    """Transform, depthwise convolution, inverse transform, plus ``base``: three grouped convolutions.

    Equal to :func:`~mmmobilemamba.ops.haar_dwt`, a depthwise convolution of the sub-bands and
    :func:`~mmmobilemamba.ops.haar_idwt`.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): Weight of the depthwise convolution, (4C, 1, k, k), k odd, in the order of the
            sub-bands of :func:`~mmmobilemamba.ops.haar_dwt`.
        base (Tensor): (N, C, H, W).

    Returns:
        Tensor: (N, C, H, W).
    """
    channels = weight.shape[0] // BANDS
    weight = neighbouring_bands(weight)
    bands = F.conv2d(_forward(x, channels), weight, padding=side_of(weight) // 2, groups=BANDS * channels)
    return base + _inverse(bands, base, channels)


def neighbouring_bands(weight: Tensor) -> Tensor:
    """Reorder a weight (4C, 1, k, k) from four blocks of C channels to adjacent sub-bands per channel."""
    return weight.view(BANDS, -1, *weight.shape[1:]).transpose(0, 1).flatten(0, 1)


def dwt_weight(like: Tensor) -> Tensor:
    """Weight of the transform as a grouped convolution of stride 2, the sub-bands of a channel adjacent.

    Args:
        like (Tensor): (4C, ...), of the wanted dtype and device.

    Returns:
        Tensor: (4C, 1, 2, 2).
    """
    return like.new_tensor(SIGNS)[:, None].repeat(like.shape[0] // BANDS, 1, 1, 1)


def idwt_weight(like: Tensor) -> Tensor:
    """Weight of the inverse transform as a grouped pointwise convolution, followed by ``pixel_shuffle``.

    Args:
        like (Tensor): (4C, ...), of the wanted dtype and device.

    Returns:
        Tensor: (4C, 4, 1, 1), one row for each of the four pixels of a channel.
    """
    pixels = like.new_tensor(SIGNS).flatten(1).t()[..., None, None]
    return pixels.repeat(like.shape[0] // BANDS, 1, 1, 1)


def haar_dwt_export(x: Tensor) -> Tensor:
    """Exportable form of :func:`~mmmobilemamba.ops.haar_dwt`, with the same shapes."""
    channels = x.shape[1]
    bands = _forward(x, channels)
    size = (bands.shape[2], bands.shape[3])
    return bands.reshape(-1, channels, BANDS, *size).transpose(1, 2).reshape(-1, BANDS * channels, *size)


def haar_idwt_export(bands: Tensor, base: Tensor) -> Tensor:
    """Exportable form of :func:`~mmmobilemamba.ops.haar_idwt`, with the same shapes."""
    channels, size = base.shape[1], (bands.shape[2], bands.shape[3])
    bands = bands.reshape(-1, BANDS, channels, *size).transpose(1, 2).reshape(-1, BANDS * channels, *size)
    return base + _inverse(bands, base, channels)


def _haar(like, channels):
    """Weight (4C, 1, 2, 2) of the transform, the four sub-bands of a channel adjacent."""
    # Tracing warns about tensors made inside the graph; torch.export refuses those from outside.
    if torch.jit.is_tracing():
        signs = FOR_TRACES.to(like.device, like.dtype)
    else:
        signs = torch.tensor(SIGNS, dtype=like.dtype, device=like.device)
    return signs[:, None].repeat(channels, 1, 1, 1)


def _forward(x, channels):
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), _haar(x, channels), stride=2, groups=channels)


def _inverse(bands, base, channels):
    details = F.conv_transpose2d(bands, _haar(bands, channels), stride=2, groups=channels)
    return details[:, :, : base.shape[2], : base.shape[3]]
