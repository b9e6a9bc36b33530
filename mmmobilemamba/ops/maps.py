"""Feature maps as the C++ kernels see them."""

import ctypes


class Map(ctypes.Structure):
    """As in cpu/csrc/maps.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ('batch', 'height', 'width', 'channels')),
        *((name, ctypes.c_int64) for name in ('batch_stride', 'row_stride', 'column_stride')),
        ('data', ctypes.c_void_p),
    ]


def as_map(x):
    """A tensor (N, C, H, W) with contiguous channels, which has to live as long as the map."""
    batch, channels, height, width = x.shape
    strides = x.stride()
    return Map(batch, height, width, channels, strides[0], strides[2], strides[3], x.data_ptr())


def evenly_spaced(x):
    """Whether one stride, that of the columns, leads through the pixels of all images of (N, C, H, W)."""
    batch, _, height, width = x.shape
    strides = x.stride()
    return (height == 1 or strides[2] == width * strides[3]) and (
        batch == 1 or strides[0] == height * width * strides[3]
    )
