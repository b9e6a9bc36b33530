from .kernels import INSTRUCTION_SETS, can_run, has_vectors, is_watched, load, run, why_not

__all__ = ['INSTRUCTION_SETS', 'can_run', 'has_vectors', 'is_watched', 'load', 'run', 'why_not']
