"""One level of the orthonormal Haar transform, in sums and differences.

The four sub-bands of a channel stay adjacent: channel ``4 * c + s`` holds, of channel ``c``,
s = 0 the average, 1 top minus bottom rows, 2 left minus right columns, 3 the diagonal
difference. Every filter tap is +-1/2, which makes the 4 x 4 transform of a 2 x 2 patch
symmetric and orthogonal, and so its own inverse. Source: MobileMamba,
https://arxiv.org/abs/2411.15941, the wavelet of WTE-Mamba.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def haar_dwt(x: Tensor) -> Tensor:
    """Forward transform: (N, C, H, W) with even H and W -> (N, 4C, H / 2, W / 2)."""
    return _haar_butterfly(F.pixel_unshuffle(x, 2))


def haar_idwt(bands: Tensor) -> Tensor:
    """Inverse of :func:`haar_dwt`: (N, 4C, H, W) -> (N, C, 2H, 2W)."""
    return F.pixel_shuffle(_haar_butterfly(bands), 2)


def pad_to_even(x: Tensor) -> Tensor:
    """Add a zero row below if H is odd and a zero column at the right if W is odd."""
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    return x


def _haar_butterfly(x: Tensor) -> Tensor:
    """Apply the symmetric orthogonal 4 x 4 Haar matrix to each group of 4 channels."""
    top_left, top_right, bottom_left, bottom_right = x.mul(0.5).unflatten(1, (-1, 4)).unbind(2)
    top, bottom = top_left + top_right, bottom_left + bottom_right
    top_step, bottom_step = top_left - top_right, bottom_left - bottom_right
    bands = (top + bottom, top - bottom, top_step + bottom_step, top_step - bottom_step)
    return torch.stack(bands, dim=2).flatten(1, 2)
