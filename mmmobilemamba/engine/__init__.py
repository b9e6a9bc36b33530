"""Schedule, optimizer wrappers and Runner, in mmengine's root registries."""

from .optimizers import CPUAmpOptimWrapper, LayerDecayOptimWrapperConstructor
from .runners import PortableRunner
from .schedulers import WarmupCosineLR

__all__ = ['CPUAmpOptimWrapper', 'LayerDecayOptimWrapperConstructor', 'PortableRunner', 'WarmupCosineLR']
