"""One level of the Haar transform of feature maps, as sums and differences.

The output has four blocks of C channels: the averages, then the differences of top and bottom rows, of left
and right columns, and of the diagonals. Both transforms are scaled to twice the orthonormal ones, whose
filter taps are +-1/2; the weights between them absorb the factor at no cost. In channels-last maps, slices of
rows and columns are whole pixels, so every sum reads and writes along the channels. Source: MobileMamba,
https://arxiv.org/abs/2411.15941, the wavelet of WTE-Mamba.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import AS_OPERATOR, WITH_CPP, check_backend, uses_triton
from .cpu.haar import haar_dwt_cpp, haar_idwt_cpp
from .cpu.library import can_run
from .export.haar import haar_dwt_export, haar_idwt_export
from .shapes import check_bands
from .tracing import is_exported
from .triton.operators import register_haar


def haar_dwt(x: Tensor, backend: str = 'auto') -> Tensor:
    """Haar transform, scaled to twice the orthonormal one; odd sides are padded with a zero row or column.

    Args:
        x (Tensor): (N, C, H, W).
        backend (str): As in :func:`~mmmobilemamba.ops.selective_scan`. ``'auto'`` and ``'cpp'`` allow the C++
            kernel. It runs for channels-last maps on a CPU, in float32 or float64, if no gradient is needed.
            ``'auto'`` and ``'triton'`` allow the Triton kernel. It runs on GPUs where the Triton scan can
            run, in float32, bfloat16 or float16, and accumulates in float32. All other calls run in PyTorch.
            Defaults to ``'auto'``.

    Returns:
        Tensor: (N, 4C, ceil(H / 2), ceil(W / 2)), channels-last; the Triton kernel returns a channels-first
        map if ``x`` is channels-first.

    Raises:
        ValueError: If the backend does not exist.
    """
    check_backend(backend)
    if backend in WITH_CPP and can_run(x) and x.stride(1) == 1:
        return haar_dwt_cpp(x)
    if uses_triton(backend, x):
        return torch.ops.mmmobilemamba.haar_dwt(x, x.dtype)
    return haar_dwt_export(x) if _asks_no_sizes() else haar_dwt_torch(x)


def haar_dwt_torch(x: Tensor) -> Tensor:
    """:func:`haar_dwt` in PyTorch: (N, C, H, W) -> (N, 4C, ceil(H / 2), ceil(W / 2))."""
    pixels = pad_to_even(x).permute(0, 2, 3, 1)
    top, bottom = pixels[:, ::2], pixels[:, 1::2]
    total, step = top + bottom, top - bottom
    left, right = total[:, :, ::2], total[:, :, 1::2]
    left_step, right_step = step[:, :, ::2], step[:, :, 1::2]
    bands = (left + right, left_step + right_step, left - right, left_step - right_step)
    return torch.cat(bands, dim=3).permute(0, 3, 1, 2)


def haar_idwt(bands: Tensor, base: Tensor, backend: str = 'auto') -> Tensor:
    """Inverse Haar transform, scaled to twice the orthonormal one, plus ``base``.

    ``haar_idwt(haar_dwt(x), base)`` is ``4 * x + base``.

    Args:
        bands (Tensor): (N, 4C, ceil(H / 2), ceil(W / 2)).
        base (Tensor): (N, C, H, W).
        backend (str): As in :func:`haar_dwt`. Defaults to ``'auto'``.

    Returns:
        Tensor: (N, C, H, W), in the promoted dtype of both inputs, channels-last; the Triton kernel returns a
        channels-first map if ``base`` is channels-first. The padding of odd sides is cropped.

    Raises:
        ValueError: If the shapes do not match or the backend does not exist.
    """
    check_backend(backend)
    if backend in WITH_CPP and can_run(bands, base) and base.stride(1) == 1:
        return haar_idwt_cpp(bands, base)
    if uses_triton(backend, bands, base):
        dtype = torch.promote_types(bands.dtype, base.dtype)
        return torch.ops.mmmobilemamba.haar_idwt(bands, base, *base.shape[2:], dtype)
    if not torch.jit.is_tracing():  # tracing would record the comparison
        check_bands(bands, base.shape)
    return haar_idwt_export(bands, base) if _asks_no_sizes() else haar_idwt_torch(bands, base)


def haar_idwt_torch(bands: Tensor, base: Tensor) -> Tensor:
    """:func:`haar_idwt` in PyTorch: (N, 4C, ceil(H / 2), ceil(W / 2)), (N, C, H, W) -> (N, C, H, W)."""
    average, rows, columns, diagonal = bands.permute(0, 2, 3, 1).chunk(4, dim=3)
    top, bottom = average + rows, average - rows
    top_step, bottom_step = columns + diagonal, columns - diagonal
    top = torch.stack((top + top_step, top - top_step), dim=3)
    bottom = torch.stack((bottom + bottom_step, bottom - bottom_step), dim=3)
    pixels = torch.stack((top, bottom), dim=2).flatten(3, 4).flatten(1, 2)
    return base + pixels.permute(0, 3, 1, 2)[..., : base.shape[2], : base.shape[3]]


def _asks_no_sizes():
    """Whether H and W have to stay dynamic, as in ``torch.export``; in a trace, slices are dynamic anyway."""
    return is_exported() and not torch.jit.is_tracing()


def pad_to_even(x: Tensor) -> Tensor:
    """Add a zero row at the bottom if H is odd and a zero column at the right if W is odd."""
    height, width = x.shape[-2:]
    if torch.jit.is_tracing() or height % 2 or width % 2:  # a trace must work for even and odd sides
        x = F.pad(x, (0, width % 2, 0, height % 2))
    return x


LIBRARY = register_haar(haar_dwt_torch, haar_idwt_torch) if AS_OPERATOR else None
