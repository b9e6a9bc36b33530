"""Selects the backend of each operation and reports why faster ones cannot run.

The ``backend`` argument means the same in every operation: ``'auto'`` and ``'cpp'`` allow C++ on CPUs,
``'auto'`` and ``'triton'`` allow Triton on GPUs. The backbone passes its ``scan_backend`` to all operations
of the network, so ``scan_backend='torch'`` also runs convolutions, Haar transforms and gates in PyTorch. The
scan raises an error if the named backend cannot run; the other operations fall back to PyTorch.
"""

from importlib.util import find_spec
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor

from . import tracing
from .cpu import library

KERNELS = dict(cpp='cpu', triton='cuda')  # backends with kernels of this package, and their types of device
BACKENDS = (*KERNELS, 'torch', 'naive', 'export')  # fastest first
OPERATIONS = ('scan', 'conv', 'depthwise_conv', 'haar', 'norm_gate')
WITH_CPP = ('auto', 'cpp')
WITH_TRITON = ('auto', 'triton')
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# torch 2.4 added the registration of gradients and fake kernels from Python.
AS_OPERATOR = hasattr(torch.library, 'register_autograd')
SCAN_OPERATOR = 'torch._higher_order_ops.scan'  # used by backend 'export'
STANDALONE = 'a traced or exported graph has to work where this package is not'


class Choice(NamedTuple):
    """The backend of a call, and why faster ones were passed over.

    Attributes:
        backend (str): Name of the backend.
        passed_over (dict[str, str]): Names of the faster backends, each with the reason.
    """

    backend: str
    passed_over: dict


def check_backend(backend: str) -> None:
    """Check the name of a backend; it need not be able to run here.

    Raises:
        ValueError: If it is neither ``'auto'`` nor one of ``BACKENDS``.
    """
    if backend != 'auto' and backend not in BACKENDS:
        raise ValueError(
            f"backend '{backend}' is not one of {sorted(BACKENDS)}; 'auto' chooses the fastest that can run."
        )


def available_backends(
    device: Union[str, torch.device] = 'cpu', dtype: torch.dtype = torch.float32
) -> tuple[str, ...]:
    """Backends in which the scan can run here, fastest first.

    Args:
        device (str | torch.device): Device of the tensors. Defaults to ``'cpu'``.
        dtype (torch.dtype): Dtype of ``u``. Defaults to float32.

    Returns:
        tuple[str]: Names that the ``backend`` argument accepts beside ``'auto'``.
    """
    return tuple(name for name in BACKENDS if why_not(name, 'scan', device, dtype) is None)


def select_backend(
    backend: str = 'auto',
    device: Union[str, torch.device] = 'cpu',
    dtype: torch.dtype = torch.float32,
    operation: str = 'scan',
) -> Choice:
    """The backend that a call with ``backend`` uses for tensors on ``device`` of ``dtype``.

    While a graph is traced or exported, ``'auto'`` avoids the kernels of this package, so that the graph runs
    where the package is not installed. ``torch.export`` keeps the kernels of a backend given by name.

    Args:
        backend (str): ``'auto'`` or one of ``BACKENDS``. Defaults to ``'auto'``.
        device (str | torch.device): Device of the tensors. Defaults to ``'cpu'``.
        dtype (torch.dtype): Dtype of the tensors; for the scan, that of ``u``. Defaults to float32.
        operation (str): One of ``OPERATIONS``: ``'scan'``; ``'conv'`` and ``'depthwise_conv'``, which are
            :func:`~mmmobilemamba.ops.conv2d` with dense and depthwise weights; ``'haar'``, both transforms;
            ``'norm_gate'``. Except for the scan, the result holds for inference: calls that need a gradient,
            or whose memory format or size has no kernel, run in PyTorch; see the docstrings of the functions.
            Defaults to ``'scan'``.

    Returns:
        Choice: The backend, and why each faster one that ``backend`` allows was passed over.

    Raises:
        ValueError: If the backend or the operation does not exist.
        RuntimeError: If the scan cannot run in the backend here; the message gives the reason.
    """
    check_backend(backend)
    if operation not in OPERATIONS:
        raise ValueError(f"operation '{operation}' is not one of {sorted(OPERATIONS)}.")
    candidates: tuple[str, ...] = BACKENDS if backend == 'auto' else (backend,)
    if operation != 'scan':
        candidates = (*(name for name in KERNELS if backend in ('auto', name)), 'torch')
    passed_over = {}
    if backend == 'auto' and tracing.is_exported():
        passed_over = dict.fromkeys(KERNELS, STANDALONE)
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
    """Reason why a backend cannot run an operation.

    Args:
        backend (str): One of ``BACKENDS``.
        operation (str): One of ``OPERATIONS``.
        device (str | torch.device): Device of the tensors.
        dtype (torch.dtype): Dtype of the tensors.

    Returns:
        str | None: The reason, None if it can run.
    """
    device_type = torch.device(device).type
    if backend in KERNELS and torch.jit.is_tracing():
        return STANDALONE
    made_for = KERNELS.get(backend, device_type)
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
    """Reason why the C++ kernels that bypass PyTorch's dispatcher cannot run (str | None)."""
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
    """Reason why the Triton kernels cannot run for tensors on a GPU (str | None)."""
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
    """Reason for a version of PyTorch that lacks the functions of :mod:`.tracing` (str)."""
    return (
        f'torch {torch.__version__} has no {", ".join(tracing.MISSING)}, by which calls that are traced or '
        f'transformed are told from others'
    )


def _name(dtype):
    return str(dtype).rpartition('.')[2]


if hasattr(torch.amp, 'is_autocast_available'):  # since PyTorch 2.4, as is the argument

    def autocasts() -> bool:
        """Whether autocast is enabled for CPUs (bool); it changes the dtype of convolutions."""
        return torch.is_autocast_enabled('cpu')

else:
    autocasts = torch.is_autocast_cpu_enabled


@torch.compiler.assume_constant_result  # torch.compile evaluates it instead of tracing into it
def resolve(backend: str, device_type: str, dtype: torch.dtype) -> str:
    """Name of the backend that :func:`select_backend` chooses for a scan (str)."""
    return select_backend(backend, device_type, dtype).backend


def uses_triton(backend: str, *tensors: Tensor) -> bool:
    """Whether an operation other than the scan runs in Triton for these tensors (bool)."""
    if backend not in WITH_TRITON or (backend == 'auto' and tracing.is_exported()):
        return False
    for x in tensors:
        if not x.is_cuda or x.dtype not in TRITON_DTYPES:
            return False
    return resolve('auto', 'cuda', tensors[0].dtype) == 'triton'
