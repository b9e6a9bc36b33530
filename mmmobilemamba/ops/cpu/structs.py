"""The structs of the C++ kernels, mirrored for ctypes; loading the library checks that they match."""

import ctypes

from ..epilogue import ACTIVATIONS

# Numbers of the activations in csrc/conv.h.
ACTIVATION_CODES = {name: code for code, name in enumerate((None, *ACTIVATIONS))}


def _sizes(*names):
    return [(name, ctypes.c_int64) for name in names]


def _pointers(*names):
    return [(name, ctypes.c_void_p) for name in names]


class Map(ctypes.Structure):
    """As in csrc/maps.h."""

    _fields_ = [
        *_sizes('batch', 'height', 'width', 'channels', 'batch_stride', 'row_stride', 'column_stride'),
        *_pointers('data'),
    ]


class Gate(ctypes.Structure):
    """As in csrc/maps.h."""

    _fields_ = [
        *_sizes('pixels', 'channels', 'z_stride'),
        *_pointers('y', 'weight', 'bias', 'z'),
        ('eps', ctypes.c_double),
    ]


class Conv(ctypes.Structure):
    """As in csrc/conv.h."""

    _fields_ = [
        ('map', Map),
        *_sizes('out_channels', 'kernel', 'stride', 'activation'),
        *_pointers('weight', 'bias', 'shortcut'),
    ]


class ScanTensors(ctypes.Structure):
    """As in csrc/scan.h."""

    _fields_ = [
        *_sizes('batch', 'length', 'channels', 'rank', 'u_batch_stride', 'u_step_stride'),
        *_pointers('u', 'x_dbl', 'dt_weight', 'A', 'D', 'dt_bias'),
    ]


class ScanGradients(ctypes.Structure):
    """As in csrc/scan.h."""

    _fields_ = _pointers('y', 'u', 'x_dbl', 'dt_weight', 'A', 'D', 'dt_bias')


STRUCTS = (Map, Gate, Conv, ScanTensors, ScanGradients)


def layout() -> dict[str, int]:
    """The memory layout that the library has to match (dict[str, int]).

    Sizes of structs in bytes, such as ``'Conv'``; offsets of fields in bytes, such as ``'Conv.stride'``;
    numbers of activations, such as ``'activation relu'``.
    """
    expected = {f'activation {name}': code for name, code in ACTIVATION_CODES.items()}
    for struct in STRUCTS:
        expected[struct.__name__] = ctypes.sizeof(struct)
        for name, *_ in struct._fields_:
            expected[f'{struct.__name__}.{name}'] = getattr(struct, name).offset
    return expected
