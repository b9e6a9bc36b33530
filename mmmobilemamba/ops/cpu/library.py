"""Loads the C++ kernels for CPUs with ctypes, and calls them."""

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
PREFIX = 'mmmobilemamba_'  # of all names that the library exports
# Number of pointers of each function; the dtype, instruction set, thread count and OpenMP function follow.
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
def load() -> tuple[dict[str, Any], int, Optional[ctypes.c_void_p]]:
    """Load the library.

    The kernels run in the OpenMP threads that PyTorch has loaded; a second OpenMP runtime would compete for
    the cores.

    Returns:
        tuple: The functions by name (dict), the index of the best of ``INSTRUCTION_SETS`` on this machine
        (int), and the address of ``GOMP_parallel``, or None if there is no such function.

    Raises:
        BuildError: If the library cannot be built or loaded, or its structs differ from those of
            :mod:`.structs`.
    """
    path = find_library()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f'{path} cannot be loaded: {error}; delete it, or {REMEDY}') from error
    check_layout(library, path)
    pointer, number = ctypes.c_void_p, ctypes.c_int
    functions = {name: library[PREFIX + name] for name in FUNCTIONS}
    for name, pointers in FUNCTIONS.items():
        functions[name].argtypes = [pointer] * pointers + [number, number, number, pointer]
    try:
        parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, pointer)
    except AttributeError:
        parallel = None  # then the library starts its own threads
    return functions, library[f'{PREFIX}instruction_set'](), parallel


def check_layout(library: ctypes.CDLL, path: Path) -> None:
    """Check that the structs in Python match those of the library, which would otherwise read wrong memory.

    Args:
        library (ctypes.CDLL): Loaded from ``path``.
        path (Path): For the error message.

    Raises:
        BuildError: If a size, an offset or a constant differs.
    """
    layout_of = library[f'{PREFIX}layout_of']
    layout_of.argtypes, layout_of.restype = [ctypes.c_char_p], ctypes.c_int64
    expected = layout()
    found = {name: layout_of(name.encode()) for name in expected}
    wrong = [name for name in expected if found[name] != expected[name]]
    if wrong:
        differences = '; '.join(f'{name} is {found[name]}, not {expected[name]}' for name in wrong[:3])
        raise BuildError(
            f'{path} does not fit ops/cpu/structs.py, which mirrors its structs: {differences}; both '
            f'have to change together'
        )


@lru_cache
def why_not() -> Optional[str]:
    """Reason why the kernels cannot run here (str | None)."""
    try:
        load()
    except BuildError as error:
        return str(error)
    return None


@lru_cache
def has_vectors() -> bool:
    """Whether the convolution kernels can run here, which need AVX2 and detection of tracing (bool)."""
    return tracing.CAN_DETECT and why_not() is None and load()[1] > 0


def can_run(*tensors: torch.Tensor, differentiable: bool = False) -> bool:
    """Whether a kernel may be called with these tensors, bypassing PyTorch's dispatcher (bool).

    False while the computation is traced or transformed. The tensors must be plain CPU tensors of one dtype,
    float32 or float64.

    Args:
        *tensors (Tensor): The inputs of the kernel.
        differentiable (bool): Whether the kernel has a gradient; otherwise the tensors must not need one.
            Defaults to False.
    """
    return not is_traced_or_transformed() and takes(*tensors, differentiable=differentiable)


def takes(*tensors: torch.Tensor, differentiable: bool = False) -> bool:
    """Whether a kernel can read these tensors (bool); :func:`can_run` without the check for tracing."""
    if why_not() is not None:
        return False
    learns, dtype = torch.is_grad_enabled() and not differentiable, tensors[0].dtype
    if dtype not in DTYPES:
        return False
    for x in tensors:  # a loop, as `all` takes twice as long
        if not (
            x.dtype == dtype
            and x.is_cpu
            and type(x) in (torch.Tensor, torch.nn.Parameter)
            and not (learns and x.requires_grad)
            and not x.is_neg()  # a lazy negative: the memory has the other sign
            and torch._C._has_storage(x)  # batched gradients have no storage
        ):
            return False
    return True


def run(name: str, *pointers: Any, dtype: torch.dtype, instruction_set: Optional[str] = None) -> None:
    """Call a kernel.

    Args:
        name (str): One of ``FUNCTIONS``.
        *pointers: Pointers to its inputs and outputs.
        dtype (torch.dtype): float32 or float64.
        instruction_set (str, optional): One of ``INSTRUCTION_SETS`` that this machine supports, for tests.
            Defaults to the best.

    Raises:
        MemoryError: If the kernel cannot allocate memory.
    """
    functions, best, parallel = load()
    chosen = best if instruction_set is None else INSTRUCTION_SETS.index(instruction_set)
    if functions[name](*pointers, dtype == torch.float64, chosen, torch.get_num_threads(), parallel):
        raise MemoryError('no memory for a kernel of mmmobilemamba; use smaller images or batches.')
