"""The C++ kernels for CPUs, loaded with ctypes."""

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

import torch

from .. import tracing
from ..tracing import is_traced_or_transformed
from .build import REMEDY, BuildError, find_library
from .structs import layout

INSTRUCTION_SETS = ('plain', 'avx2', 'avx512')
DTYPES = (torch.float32, torch.float64)
# How many pointers each function takes, before the type, the instruction set, the threads and OpenMP.
FUNCTIONS = dict(
    scan_forward=2,
    scan_backward=2,
    haar_forward=2,
    haar_inverse=3,
    norm_gate=2,
    pointwise=2,
    spatial=2,
    depthwise=2,
)


@lru_cache
def load() -> tuple[ctypes.CDLL, int, Optional[ctypes.c_void_p]]:
    """The library, its best instruction set, and OpenMP's function that runs threads, or None.

    PyTorch has loaded an OpenMP already; with a second one the threads of both would get in each other's way.

    Raises:
        BuildError: If there is no library and it cannot be built, or it is not the one that the structs of
            :mod:`.structs` are for.
    """
    path = find_library()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f'{path} cannot be loaded: {error}; delete it, or {REMEDY}') from error
    check_layout(library, path)
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, pointers in FUNCTIONS.items():
        getattr(library, name).argtypes = [pointer] * pointers + [number, number, number, pointer]
    try:
        parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, pointer)
    except AttributeError:
        parallel = None  # then the library starts threads of its own
    return library, library.instruction_set(), parallel


def check_layout(library: ctypes.CDLL, path: Path) -> None:
    """Make sure that the structs in Python are those of a library, which would else read wrong memory.

    Args:
        library (ctypes.CDLL): Loaded from ``path``.
        path (Path): For the message.

    Raises:
        BuildError: If one differs.
    """
    library.layout_of.argtypes, library.layout_of.restype = [ctypes.c_char_p], ctypes.c_int64
    expected = layout()
    found = {name: library.layout_of(name.encode()) for name in expected}
    wrong = [name for name in expected if found[name] != expected[name]]
    if wrong:
        differences = '; '.join(f'{name} is {found[name]}, not {expected[name]}' for name in wrong[:3])
        raise BuildError(
            f'{path} does not fit ops/cpu/structs.py, which mirrors its structs: {differences}; both '
            f'have to change together'
        )


@lru_cache
def why_not() -> Optional[str]:
    """Why these kernels cannot run here (str), or None."""
    try:
        load()
    except BuildError as error:
        return str(error)
    return None


@lru_cache
def has_vectors() -> bool:
    """Whether the kernels of convolutions can be used here: called directly, and with AVX2 at least."""
    return tracing.CAN_DETECT and why_not() is None and load()[1] > 0


def can_run(*tensors: torch.Tensor, differentiable: bool = False) -> bool:
    """Whether a kernel may be called with these tensors directly, past PyTorch's dispatcher.

    Not where what is computed is traced or transformed, and only for plain tensors of one type, float32 or
    float64, on the CPU. They may need gradients only if the kernel is ``differentiable``.
    """
    return not is_traced_or_transformed() and takes(*tensors, differentiable=differentiable)


def takes(*tensors: torch.Tensor, differentiable: bool = False) -> bool:
    """Whether a kernel can read these tensors: :func:`can_run` where nothing is traced or transformed."""
    if why_not() is not None:
        return False
    learns, dtype = torch.is_grad_enabled() and not differentiable, tensors[0].dtype
    if dtype not in DTYPES:
        return False
    for x in tensors:  # which `all` would take twice as long for
        if not (
            x.dtype == dtype
            and x.is_cpu
            and type(x) in (torch.Tensor, torch.nn.Parameter)
            and not (learns and x.requires_grad)
            and not x.is_neg()  # which is in no other memory than the negative's
            and torch._C._has_storage(x)  # a batch of gradients has none of its own
        ):
            return False
    return True


def run(name: str, *pointers: Any, dtype: torch.dtype, instruction_set: Optional[str] = None) -> None:
    """Call a kernel.

    Args:
        name (str): One of ``FUNCTIONS``.
        *pointers: Its first arguments.
        dtype (torch.dtype): float32 or float64.
        instruction_set (str, optional): One of ``INSTRUCTION_SETS`` up to the best of this machine, for
            tests. Defaults to the best.

    Raises:
        MemoryError: If there is none left.
    """
    library, best, parallel = load()
    chosen = best if instruction_set is None else INSTRUCTION_SETS.index(instruction_set)
    function = getattr(library, name)
    if function(*pointers, dtype == torch.float64, chosen, torch.get_num_threads(), parallel):
        raise MemoryError('no memory for a kernel of mmmobilemamba; use smaller images or batches.')
