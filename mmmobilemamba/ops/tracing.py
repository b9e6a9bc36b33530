"""Detects tracing and transforms, under which calls must go through PyTorch's dispatcher."""

import torch
from torch.autograd import forward_ad

# Some of these names are private. Versions of PyTorch before 2.3 lack one or another.
_NEEDED = (
    (torch.compiler, 'is_compiling'),
    (torch._C, '_is_tracing'),
    (torch._C, '_len_torch_dispatch_stack'),
    (torch._C, '_has_storage'),
    (torch._C, '_are_functorch_transforms_active'),
    (forward_ad, '_current_level'),
)
MISSING = tuple(f'{owner.__name__}.{name}' for owner, name in _NEEDED if not hasattr(owner, name))
CAN_DETECT = not MISSING
_is_exporting = getattr(torch.compiler, 'is_exporting', bool)


def is_exported() -> bool:
    """Whether ``torch.export`` or ``torch.onnx.export`` is running (bool).

    Before PyTorch 2.7, ``torch.export`` cannot be detected.
    """
    return _is_exporting() or (torch.jit.is_tracing() and torch.onnx.is_in_onnx_export())


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is active, such as ``vmap`` or ``grad`` (bool)."""
    return CAN_DETECT and torch._C._are_functorch_transforms_active()


def is_traced_or_transformed() -> bool:
    """Whether the current computation is recorded or transformed (bool).

    This covers compilation, export, tracing, dispatch modes, transforms of ``torch.func`` and forward-mode
    differentiation. Always True if this version of PyTorch lacks the needed functions, see ``CAN_DETECT``.
    """
    return not CAN_DETECT or (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )
