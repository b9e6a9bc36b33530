"""The bidirectional selective scan in C++, for CPUs: forward and backward by csrc/scan.cpp."""

import ctypes
from functools import lru_cache

import torch

from .build import BuildError, find_library

BLOCK = 32  # kBlock of csrc/scan.h
INSTRUCTION_SETS = ('plain', 'avx2', 'avx512')
DTYPES = (torch.float32, torch.float64)


class ScanTensors(ctypes.Structure):
    """As in csrc/scan.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ('batch', 'length', 'channels', 'rank')),
        *((name, ctypes.c_int64) for name in ('u_batch_stride', 'u_step_stride')),
        *((name, ctypes.c_void_p) for name in ('u', 'rows', 'dt_weight', 'A', 'D', 'dt_bias')),
    ]


class ScanGradients(ctypes.Structure):
    """As in csrc/scan.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ('y', 'u', 'rows', 'dt_weight', 'A', 'D', 'dt_bias')]


@lru_cache
def load():
    """The library, its best instruction set, and OpenMP's function that runs threads, or None.

    PyTorch has loaded an OpenMP already; with a second one the threads of both would get in each other's way.

    Raises:
        BuildError: If there is no library and it cannot be built.
    """
    path = find_library()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f'{path} cannot be loaded: {error}') from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.scan_forward.argtypes = [pointer, pointer, number, number, number, pointer]
    library.scan_backward.argtypes = [pointer, pointer, number, number, number, pointer]
    try:
        parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, pointer)
    except AttributeError:
        parallel = None  # then the library starts threads of its own
    return library, library.scan_instruction_set(), parallel


def why_not():
    """Why these kernels cannot run here (str), or None."""
    try:
        load()
    except BuildError as error:
        return str(error)
    return None


def forward(u, rows, dt_weight, A, D, dt_bias, instruction_set=None):
    """Equal to :func:`~.naive.selective_scan_naive`, without gradients.

    Args:
        instruction_set (str, optional): One of ``INSTRUCTION_SETS`` up to the best of this machine, for
            tests. Defaults to the best.
    """
    library, best, parallel = load()
    tensors = _contiguous(u, rows, dt_weight, A, D, dt_bias)
    y = torch.empty(u.shape, dtype=tensors[0].dtype)
    problem = _problem(*tensors)
    chosen = best if instruction_set is None else INSTRUCTION_SETS.index(instruction_set)
    double, threads = y.dtype == torch.float64, torch.get_num_threads()
    _check(library.scan_forward(ctypes.byref(problem), y.data_ptr(), double, chosen, threads, parallel))
    return y


def backward(grad_y, u, rows, dt_weight, A, D, dt_bias, instruction_set=None):
    """Gradients of all six inputs, in float32 or float64.

    Sums over images and channels are over parts that do not depend on the number of threads, so
    that the result does not, either.
    """
    library, best, parallel = load()
    tensors = u, rows, dt_weight, A, D, dt_bias = _contiguous(u, rows, dt_weight, A, D, dt_bias)
    batch, _, channels = u.shape
    grad_y = grad_y.to(u.dtype).contiguous()
    blocks = -(-channels // BLOCK)
    shapes = [u.shape, (blocks, *rows.shape), (batch, *dt_weight.shape), (batch, 2, channels)]
    shapes += [(batch, channels), (batch, 2, channels)]
    grads = [torch.empty(shape, dtype=u.dtype) for shape in shapes]
    gradients = ScanGradients(*(x.data_ptr() for x in (grad_y, *grads)))
    problem = _problem(*tensors)
    chosen = best if instruction_set is None else INSTRUCTION_SETS.index(instruction_set)
    double, threads = u.dtype == torch.float64, torch.get_num_threads()
    _check(
        library.scan_backward(
            ctypes.byref(problem), ctypes.byref(gradients), double, chosen, threads, parallel
        )
    )
    grad_u, *partial = grads
    grad_rows, grad_weight, grad_A, grad_D, grad_bias = (x.sum(0) for x in partial)
    return grad_u, grad_rows, grad_weight, grad_A, grad_D.expand(2, -1).contiguous(), grad_bias


def _contiguous(u, *others):
    """In one type, float32 or float64; of ``u`` only the channels need be contiguous."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    u = u.to(dtype)
    if u.stride(2) != 1:
        u = u.contiguous()
    return u, *(x.to(dtype).contiguous() for x in others)


def _problem(u, *others):
    batch, length, channels = u.shape
    rank = others[1].shape[2]
    strides = u.stride()[:2]
    return ScanTensors(batch, length, channels, rank, *strides, *(x.data_ptr() for x in (u, *others)))


def _check(status):
    if status:
        raise MemoryError('no memory for the scan; use smaller images or batches.')
