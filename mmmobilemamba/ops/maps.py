"""Feature maps as the C++ kernels see them."""

import ctypes

import torch


class Map(ctypes.Structure):
    """As in cpu/csrc/maps.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ('batch', 'height', 'width', 'channels')),
        *((name, ctypes.c_int64) for name in ('batch_stride', 'row_stride', 'column_stride')),
        ('data', ctypes.c_void_p),
    ]


def as_map(x, column_stride=None):
    """A tensor (N, C, H, W) with contiguous channels, which has to live as long as the map.

    Args:
        column_stride (int, optional): Another than that of the tensor, where it has one column only.
    """
    batch, channels, height, width = x.shape
    strides = x.stride()
    column_stride = strides[3] if column_stride is None else column_stride
    return Map(batch, height, width, channels, strides[0], strides[2], column_stride, x.data_ptr())


def evenly_spaced(x):
    """The one stride (int) that leads through the pixels of all images of (N, C, H, W), or None.

    The strides of sides of 1 say nothing.
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        return x.shape[1]
    spacing, steps = None, 1
    for axis in (3, 2, 0):
        if x.shape[axis] > 1:
            spacing = x.stride(axis) // steps if spacing is None else spacing
            if x.stride(axis) != spacing * steps:
                return None
        steps *= x.shape[axis]
    return x.shape[1] if spacing is None else spacing
