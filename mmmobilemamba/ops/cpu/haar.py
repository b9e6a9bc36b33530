"""The Haar transform of :mod:`mmmobilemamba.ops.haar` in C++."""

import ctypes
from typing import Optional

import torch
from torch import Tensor

from ..shapes import check_bands, half_size
from .library import run
from .maps import as_map


def haar_dwt_cpp(x: Tensor, instruction_set: Optional[str] = None) -> Tensor:
    """:func:`~mmmobilemamba.ops.haar_dwt` in C++, without gradients, for a map with contiguous channels."""
    batch, channels, height, width = x.shape
    bands = x.new_empty(batch, *half_size(height, width), 4 * channels)
    pointers = ctypes.byref(as_map(x)), bands.data_ptr()
    run('haar_forward', *pointers, dtype=x.dtype, instruction_set=instruction_set)
    return bands.permute(0, 3, 1, 2)


def haar_idwt_cpp(bands: Tensor, base: Tensor, instruction_set: Optional[str] = None) -> Tensor:
    """:func:`~mmmobilemamba.ops.haar_idwt` in C++, without gradients, for a base with contiguous channels."""
    batch, channels, height, width = base.shape
    check_bands(bands, base.shape)
    bands = bands.contiguous(memory_format=torch.channels_last)
    out = base.new_empty(batch, height, width, channels)
    pointers = ctypes.byref(as_map(base)), bands.data_ptr(), out.data_ptr()
    run('haar_inverse', *pointers, dtype=base.dtype, instruction_set=instruction_set)
    return out.permute(0, 3, 1, 2)
