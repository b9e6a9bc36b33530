"""Schedule, optimizer wrappers, Runner and a hook for GPUs, in mmengine's root registries."""

from .cuda_graph_hook import CUDAGraphHook
from .optimizers import CPUAmpOptimWrapper, LayerDecayOptimWrapperConstructor
from .runners import PortableRunner
from .schedulers import WarmupCosineLR

__all__ = [
    'CPUAmpOptimWrapper',
    'CUDAGraphHook',
    'LayerDecayOptimWrapperConstructor',
    'PortableRunner',
    'WarmupCosineLR',
]
