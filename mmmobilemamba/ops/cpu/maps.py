"""Conversion of feature maps to the struct that the C++ kernels read."""

from typing import Optional

from torch import Tensor

from .structs import Map


def as_map(x: Tensor, column_stride: Optional[int] = None) -> Map:
    """Describe a tensor for the kernels. The caller has to keep the tensor alive.

    Args:
        x (Tensor): (N, C, H, W), with contiguous channels.
        column_stride (int, optional): Replaces the column stride of ``x``, which is undefined for a map of
            one column. Defaults to None.
    """
    batch, channels, height, width = x.shape
    strides = x.stride()
    column_stride = strides[3] if column_stride is None else column_stride
    return Map(batch, height, width, channels, strides[0], strides[2], column_stride, x.data_ptr())
