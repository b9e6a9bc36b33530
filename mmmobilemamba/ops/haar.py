"""One level of the Haar transform of feature maps, in sums and differences.

The sub-bands of C channels follow one another: C averages, C differences of top and bottom rows, C of left
and right columns, C of the diagonals. Both transforms are twice the orthonormal ones, whose filter taps are
+-1/2: the factor costs nothing where the weights between them take it in. Slices of rows and columns are
whole pixels in channels-last maps, so every sum reads and writes along the channels. Source: MobileMamba,
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
    """Twice the orthonormal transform, of a map to which a zero row or column is added if a side is odd.

    Args:
        x (Tensor): (N, C, H, W).
        backend (str): Of :func:`~mmmobilemamba.ops.selective_scan`. ``'auto'`` and ``'cpp'`` allow C++, which
            is taken where no gradient is needed, on a CPU, in channels-last, in float32 or float64.
            ``'auto'`` and ``'triton'`` allow Triton, which is taken on a GPU where Triton can run the scan,
            in float32, bfloat16 or float16; it sums in float32.

    Returns:
        Tensor: (N, 4C, ceil(H / 2), ceil(W / 2)), in channels-last; from Triton, channels-first if ``x`` is.

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
    """:func:`haar_dwt` in PyTorch."""
    pixels = pad_to_even(x).permute(0, 2, 3, 1)
    top, bottom = pixels[:, ::2], pixels[:, 1::2]
    total, step = top + bottom, top - bottom
    left, right = total[:, :, ::2], total[:, :, 1::2]
    left_step, right_step = step[:, :, ::2], step[:, :, 1::2]
    bands = (left + right, left_step + right_step, left - right, left_step - right_step)
    return torch.cat(bands, dim=3).permute(0, 3, 1, 2)


def haar_idwt(bands: Tensor, base: Tensor, backend: str = 'auto') -> Tensor:
    """``base`` and twice the orthonormal inverse; of a :func:`haar_dwt`, four times what was transformed.

    Args:
        bands (Tensor): (N, 4C, ceil(H / 2), ceil(W / 2)).
        base (Tensor): (N, C, H, W).
        backend (str): As in :func:`haar_dwt`.

    Returns:
        Tensor: (N, C, H, W), of the type that both are promoted to, in channels-last; from Triton,
        channels-first if ``base`` is. A row or column beyond an odd side is left out.

    Raises:
        ValueError: If the shapes do not fit each other or the backend does not exist.
    """
    check_backend(backend)
    if backend in WITH_CPP and can_run(bands, base) and base.stride(1) == 1:
        return haar_idwt_cpp(bands, base)
    if uses_triton(backend, bands, base):
        dtype = torch.promote_types(bands.dtype, base.dtype)
        return torch.ops.mmmobilemamba.haar_idwt(bands, base, *base.shape[2:], dtype)
    if not torch.jit.is_tracing():  # which would record the comparison
        check_bands(bands, base.shape)
    return haar_idwt_export(bands, base) if _asks_no_sizes() else haar_idwt_torch(bands, base)


def haar_idwt_torch(bands: Tensor, base: Tensor) -> Tensor:
    """:func:`haar_idwt` in PyTorch."""
    average, rows, columns, diagonal = bands.permute(0, 2, 3, 1).chunk(4, dim=3)
    top, bottom = average + rows, average - rows
    top_step, bottom_step = columns + diagonal, columns - diagonal
    top = torch.stack((top + top_step, top - top_step), dim=3)
    bottom = torch.stack((bottom + bottom_step, bottom - bottom_step), dim=3)
    pixels = torch.stack((top, bottom), dim=2).flatten(3, 4).flatten(1, 2)
    return base + pixels.permute(0, 3, 1, 2)[..., : base.shape[2], : base.shape[3]]


def _asks_no_sizes():
    """Whether sides are to stay free, in a graph of torch.export; in a trace they are in slices, too."""
    return is_exported() and not torch.jit.is_tracing()


def pad_to_even(x: Tensor) -> Tensor:
    """Add a zero row below if H is odd and a zero column at the right if W is odd."""
    height, width = x.shape[-2:]
    if torch.jit.is_tracing() or height % 2 or width % 2:  # a trace is for sides of either kind
        x = F.pad(x, (0, width % 2, 0, height % 2))
    return x


LIBRARY = register_haar(haar_dwt_torch, haar_idwt_torch) if AS_OPERATOR else None
