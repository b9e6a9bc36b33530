from .kernels import INSTRUCTION_SETS, can_run, load, run, why_not

__all__ = ['INSTRUCTION_SETS', 'can_run', 'load', 'run', 'why_not']
