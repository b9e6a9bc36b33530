"""The C++ kernels for CPUs, loaded with ctypes."""

import ctypes
from functools import lru_cache

import torch
from torch.autograd import forward_ad

from .build import BuildError, find_library

INSTRUCTION_SETS = ('plain', 'avx2', 'avx512')
DTYPES = (torch.float32, torch.float64)
TELLS = (
    hasattr(torch.compiler, 'is_compiling')
    and hasattr(torch._C, '_len_torch_dispatch_stack')
    and hasattr(torch._C, '_has_storage')
    and hasattr(torch._C, '_are_functorch_transforms_active')
    and hasattr(forward_ad, '_current_level')
)
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
    for name, pointers in FUNCTIONS.items():
        getattr(library, name).argtypes = [pointer] * pointers + [number, number, number, pointer]
    try:
        parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, pointer)
    except AttributeError:
        parallel = None  # then the library starts threads of its own
    return library, library.instruction_set(), parallel


@lru_cache
def why_not():
    """Why these kernels cannot run here (str), or None."""
    try:
        load()
    except BuildError as error:
        return str(error)
    return None


@lru_cache
def has_vectors():
    """Whether kernels can ever be called directly here, with AVX2 at least, where they were measured."""
    return TELLS and why_not() is None and load()[1] > 0


def can_run(*tensors, differentiable=False):
    """Whether a kernel may be called with these tensors directly, past PyTorch's dispatcher.

    Not where somebody watches what is computed, and only for plain tensors of one type on the CPU. They may
    need gradients only if the kernel is ``differentiable``.
    """
    if is_watched() or why_not() is not None:
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


def is_watched():
    """Whether what is computed is being recorded or transformed, so that nothing may pass PyTorch by.

    That is compilation, export, tracing, a dispatch mode, a transform of ``torch.func`` and
    differentiation in forward mode. Versions of PyTorch that do not tell, which are those before 2.3, are
    taken to be watching.
    """
    return not TELLS or (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def run(name, *pointers, dtype, instruction_set=None):
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
