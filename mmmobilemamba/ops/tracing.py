"""Whether PyTorch traces or transforms what is computed, so that calls may not bypass its dispatcher."""

import torch
from torch.autograd import forward_ad

# What is asked; some are private names of PyTorch. Versions before 2.3 lack one or another.
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
    """Whether a graph is being made that is to run elsewhere: by ``torch.export`` or ``torch.onnx.export``.

    Older versions of PyTorch than 2.7 do not tell it of the former.
    """
    return _is_exporting() or (torch.jit.is_tracing() and torch.onnx.is_in_onnx_export())


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is active, such as ``vmap`` or ``grad``."""
    return CAN_DETECT and torch._C._are_functorch_transforms_active()


def is_traced_or_transformed() -> bool:
    """Whether what is computed now is being recorded or transformed (bool).

    That is compilation, export, tracing, a dispatch mode, a transform of ``torch.func`` and differentiation
    in forward mode. Always True where this version of PyTorch cannot tell, see ``CAN_DETECT``.
    """
    return not CAN_DETECT or (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )
