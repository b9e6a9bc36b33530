"""The Haar transform of :mod:`mmmobilemamba.ops.haar` in C++."""

import ctypes
from typing import Optional

import torch
from torch import Tensor

from ..shapes import check_bands, half_size
from .library import run
from .maps import as_map


def haar_dwt_cpp(x: Tensor, instruction_set: Optional[str] = None) -> Tensor:
    """:func:`~mmmobilemamba.ops.haar_dwt` in C++, without gradients.

    Args:
        x (Tensor): (N, C, H, W), float32 or float64, with contiguous channels.
        instruction_set (str, optional): See :func:`~.library.run`.

    Returns:
        Tensor: (N, 4C, ceil(H / 2), ceil(W / 2)), channels-last.
    """
    batch, channels, height, width = x.shape
    bands = x.new_empty(batch, *half_size(height, width), 4 * channels)
    pointers = ctypes.byref(as_map(x)), bands.data_ptr()
    run('haar_forward', *pointers, dtype=x.dtype, instruction_set=instruction_set)
    return bands.permute(0, 3, 1, 2)


def haar_idwt_cpp(bands: Tensor, base: Tensor, instruction_set: Optional[str] = None) -> Tensor:
    """:func:`~mmmobilemamba.ops.haar_idwt` in C++, without gradients.

    Args:
        bands (Tensor): (N, 4C, ceil(H / 2), ceil(W / 2)), in the dtype of ``base``.
        base (Tensor): (N, C, H, W), float32 or float64, with contiguous channels.
        instruction_set (str, optional): See :func:`~.library.run`.

    Returns:
        Tensor: (N, C, H, W), channels-last.

    Raises:
        ValueError: If the shapes do not match.
    """
    batch, channels, height, width = base.shape
    check_bands(bands, base.shape)
    bands = bands.contiguous(memory_format=torch.channels_last)
    out = base.new_empty(batch, height, width, channels)
    pointers = ctypes.byref(as_map(base)), bands.data_ptr(), out.data_ptr()
    run('haar_inverse', *pointers, dtype=base.dtype, instruction_set=instruction_set)
    return out.permute(0, 3, 1, 2)
