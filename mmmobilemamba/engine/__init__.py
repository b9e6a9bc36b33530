"""Schedule and optimizer wrappers of the recipes, in mmengine's root registries."""

from .optimizers import CPUAmpOptimWrapper, LayerDecayOptimWrapperConstructor
from .schedulers import WarmupCosineLR

__all__ = ['CPUAmpOptimWrapper', 'LayerDecayOptimWrapperConstructor', 'WarmupCosineLR']
