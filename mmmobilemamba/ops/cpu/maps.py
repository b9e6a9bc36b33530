"""Feature maps as the C++ kernels see them."""

from typing import Optional

from torch import Tensor

from .structs import Map


def as_map(x: Tensor, column_stride: Optional[int] = None) -> Map:
    """A tensor (N, C, H, W) with contiguous channels, which has to live as long as the map.

    Args:
        column_stride (int, optional): Another than that of the tensor, where it has one column only.
    """
    batch, channels, height, width = x.shape
    strides = x.stride()
    column_stride = strides[3] if column_stride is None else column_stride
    return Map(batch, height, width, channels, strides[0], strides[2], column_stride, x.data_ptr())
