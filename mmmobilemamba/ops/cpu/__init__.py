"""C++ kernels for CPUs, and all code that handles pointers."""

from .library import INSTRUCTION_SETS, can_run, has_vectors, load, run, why_not

__all__ = ['INSTRUCTION_SETS', 'can_run', 'has_vectors', 'load', 'run', 'why_not']
