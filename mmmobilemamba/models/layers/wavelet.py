"""One level of the Haar transform, in sums and differences.

The sub-bands of C channels follow one another: C averages, C differences of top and bottom rows, C of left
and right columns, C of the diagonals. Both transforms are twice the orthonormal ones, whose filter taps are
+-1/2: the factor costs nothing where the weights between them take it in. Slices of rows and columns are
whole pixels in channels-last maps, so every sum reads and writes along the channels. Source: MobileMamba,
https://arxiv.org/abs/2411.15941, the wavelet of WTE-Mamba.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def haar_dwt(x: Tensor) -> Tensor:
    """Twice the orthonormal transform: (N, C, H, W) with even H and W -> (N, 4C, H / 2, W / 2)."""
    pixels = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    top, bottom = pixels.unbind(2)
    left, right = (top + bottom).unbind(3)
    left_step, right_step = (top - bottom).unbind(3)
    bands = (left + right, left_step + right_step, left - right, left_step - right_step)
    return torch.cat(bands, dim=3).permute(0, 3, 1, 2)


def haar_idwt(bands: Tensor) -> Tensor:
    """Twice the orthonormal inverse, 4 x of :func:`haar_dwt`'s: (N, 4C, H, W) -> (N, C, 2H, 2W)."""
    average, rows, columns, diagonal = bands.permute(0, 2, 3, 1).chunk(4, dim=3)
    top, bottom = average + rows, average - rows
    top_step, bottom_step = columns + diagonal, columns - diagonal
    top = torch.stack((top + top_step, top - top_step), dim=3)
    bottom = torch.stack((bottom + bottom_step, bottom - bottom_step), dim=3)
    pixels = torch.stack((top, bottom), dim=2)
    return pixels.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def pad_to_even(x: Tensor) -> Tensor:
    """Add a zero row below if H is odd and a zero column at the right if W is odd."""
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    return x
