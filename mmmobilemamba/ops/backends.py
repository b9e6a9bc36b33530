"""Which backend runs each operation of this package here, and why not a faster one.

The ``backend`` argument of every operation means the same: ``'auto'`` and ``'cpp'`` allow C++ on CPUs,
``'auto'`` and ``'triton'`` allow Triton on GPUs. The backbone passes its ``scan_backend`` to all operations
of the network, so that ``scan_backend='torch'`` also runs convolutions, Haar transforms and gates in PyTorch.
A scan raises an error if a named backend cannot run; the other operations fall back to PyTorch.
"""

from importlib.util import find_spec
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor

from . import tracing
from .cpu import library

BACKENDS = ('cpp', 'triton', 'torch', 'naive', 'export')  # the fastest first
OPERATIONS = ('scan', 'conv', 'depthwise_conv', 'haar', 'norm_gate')
WITH_CPP = ('auto', 'cpp')  # allow kernels in C++ where they can run
WITH_TRITON = ('auto', 'triton')  # allow kernels in Triton
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Registering gradients and shapes of operators from Python came with torch 2.4.
AS_OPERATOR = hasattr(torch.library, 'register_autograd')
SCAN_OPERATOR = 'torch._higher_order_ops.scan'  # of PyTorch, for the form for export
STANDALONE = 'a traced or exported graph has to work where this package is not'


class Choice(NamedTuple):
    """Which backend a call uses, and why not a faster one."""

    backend: str
    passed_over: dict  # names of the faster ones, with the reasons


def check_backend(backend: str) -> None:
    """Make sure that there is such a backend, here or elsewhere.

    Raises:
        ValueError: If there is none.
    """
    if backend != 'auto' and backend not in BACKENDS:
        raise ValueError(
            f"backend '{backend}' is not one of {sorted(BACKENDS)}; 'auto' chooses the fastest that can run."
        )


def available_backends(
    device: Union[str, torch.device] = 'cpu', dtype: torch.dtype = torch.float32
) -> tuple[str, ...]:
    """Names that ``backend`` of the scan accepts for such tensors, beside ``'auto'``; the fastest first."""
    return tuple(name for name in BACKENDS if why_not(name, 'scan', device, dtype) is None)


def select_backend(
    backend: str = 'auto',
    device: Union[str, torch.device] = 'cpu',
    dtype: torch.dtype = torch.float32,
    operation: str = 'scan',
) -> Choice:
    """The backend that a call with ``backend`` uses for tensors on ``device`` of ``dtype``.

    While a graph is traced or exported, ``'auto'`` passes over the kernels of this package, so that the graph
    runs without it; ``torch.export`` keeps them where they are named.

    Args:
        backend (str): ``'auto'`` or one of ``BACKENDS``.
        device (str | torch.device): Where the tensors are. Defaults to ``'cpu'``.
        dtype (torch.dtype): Of the tensors; of a scan, that of ``u``. Defaults to float32.
        operation (str): One of ``OPERATIONS``: ``'scan'``; ``'conv'`` and ``'depthwise_conv'``, dense and
            depthwise weights of :func:`~mmmobilemamba.ops.conv2d`; ``'haar'``, both transforms;
            ``'norm_gate'``. Except for the scan, the answer is for inference: calls that need a gradient, or
            whose memory format or size has no kernel, run in PyTorch; see the docstrings of the functions.
            Defaults to ``'scan'``.

    Returns:
        Choice: The backend, and why each faster one that ``backend`` allows was passed over.

    Raises:
        ValueError: If there is no such backend or operation.
        RuntimeError: If the scan cannot run in it here; the message says why.
    """
    check_backend(backend)
    if operation not in OPERATIONS:
        raise ValueError(f"operation '{operation}' is not one of {sorted(OPERATIONS)}.")
    candidates: tuple[str, ...] = BACKENDS if backend == 'auto' else (backend,)
    if operation != 'scan':
        candidates = (*(name for name in BACKENDS[:2] if backend in ('auto', name)), 'torch')
    passed_over = {}
    if backend == 'auto' and tracing.is_exported():
        passed_over = dict.fromkeys(BACKENDS[:2], STANDALONE)
        candidates = ('export', 'torch') if operation == 'scan' else ('torch',)
    for name in candidates:
        reason = why_not(name, operation, device, dtype)
        if reason is None:
            return Choice(name, passed_over)
        passed_over[name] = reason
    raise RuntimeError(f"backend '{backend}' cannot run: {reason}. backend='auto' chooses one that can.")


def why_not(
    backend: str, operation: str, device: Union[str, torch.device], dtype: torch.dtype
) -> Optional[str]:
    """Why a backend cannot run an operation for such tensors (str), or None.

    Args:
        backend (str): One of ``BACKENDS``.
        operation (str): One of ``OPERATIONS``.
        device (str | torch.device): Where the tensors are.
        dtype (torch.dtype): Of the tensors.
    """
    device_type = torch.device(device).type
    if backend in ('cpp', 'triton') and torch.jit.is_tracing():
        return STANDALONE
    made_for = dict(cpp='cpu', triton='cuda').get(backend, device_type)
    if made_for != device_type:
        return f'it is for {made_for}, and the tensors are on {device_type}'
    if backend == 'cpp':
        return library.why_not() or (
            why_not_called_directly(operation, dtype) if operation != 'scan' else None
        )
    if backend == 'triton':
        return why_not_triton(operation, dtype)
    if backend == 'export' and find_spec(SCAN_OPERATOR) is None:
        return f'torch {torch.__version__} has no scan operator, which came with torch 2.6'
    return None


def why_not_called_directly(operation: str, dtype: torch.dtype) -> Optional[str]:
    """Why C++ kernels that are only called past PyTorch's dispatcher cannot run (str), or None."""
    if not tracing.CAN_DETECT:
        return why_not_detected()
    if operation not in ('conv', 'depthwise_conv'):
        return None if dtype in library.DTYPES else f'it is for float32 and float64, not {_name(dtype)}'
    if dtype != torch.float32:
        return f'it is for float32, not {_name(dtype)}'
    if not library.has_vectors():
        return 'it needs a processor with AVX2'
    return 'autocast is on, under which convolutions run in its type' if autocasts() else None


def why_not_triton(operation: str, dtype: torch.dtype) -> Optional[str]:
    """Why the kernels in Triton cannot run for tensors on a GPU (str), or None."""
    if find_spec('triton') is None:
        return 'Triton is not installed; PyTorch for CUDA brings it on Linux (pip install triton)'
    if not AS_OPERATOR:
        return 'it needs Triton 3.0, which PyTorch 2.4 and newer bring'
    if operation == 'scan':
        return 'it computes in float32, and u is float64' if dtype == torch.float64 else None
    if operation == 'conv':
        return 'it has no dense convolutions; cuDNN runs them'
    if dtype not in TRITON_DTYPES:
        return f'it is for float32, bfloat16 and float16, not {_name(dtype)}'
    return None if operation != 'depthwise_conv' or tracing.CAN_DETECT else why_not_detected()


def why_not_detected() -> str:
    """Which names of PyTorch tell whether a call is traced or transformed, and are missing (str)."""
    return (
        f'torch {torch.__version__} has no {", ".join(tracing.MISSING)}, by which calls that are traced or '
        f'transformed are told from others'
    )


def _name(dtype):
    return str(dtype).rpartition('.')[2]


if hasattr(torch.amp, 'is_autocast_available'):  # since PyTorch 2.4, as is the argument

    def autocasts() -> bool:
        """Whether autocast is on for CPUs, under which convolutions run in its type."""
        return torch.is_autocast_enabled('cpu')

else:
    autocasts = torch.is_autocast_cpu_enabled


@torch.compiler.assume_constant_result  # a compiled graph has the choice, not the way to it
def resolve(backend: str, device_type: str, dtype: torch.dtype) -> str:
    """Name of the backend of a scan, as :func:`select_backend` chooses it (str)."""
    return select_backend(backend, device_type, dtype).backend


def uses_triton(backend: str, *tensors: Tensor) -> bool:
    """Whether what surrounds the scan runs in Triton for these tensors; False where it cannot."""
    if backend not in WITH_TRITON or (backend == 'auto' and tracing.is_exported()):
        return False
    for x in tensors:
        if not x.is_cuda or x.dtype not in TRITON_DTYPES:
            return False
    return resolve('auto', 'cuda', tensors[0].dtype) == 'triton'
