"""The bidirectional selective scan in Triton, for GPUs: forward and backward."""

from .scan_backward import backward
from .scan_forward import forward

__all__ = ['backward', 'forward']
