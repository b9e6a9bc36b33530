"""Learning rate schedule, optimizer wrappers, Runner and hooks, registered in mmengine's root registries."""

from .cuda_graph_hook import CUDAGraphHook
from .optimizers import CPUAmpOptimWrapper, LayerDecayOptimWrapperConstructor
from .runners import PortableRunner
from .schedulers import WarmupCosineLR
from .training_check_hook import TrainingCheckHook

__all__ = [
    'CPUAmpOptimWrapper',
    'CUDAGraphHook',
    'LayerDecayOptimWrapperConstructor',
    'PortableRunner',
    'TrainingCheckHook',
    'WarmupCosineLR',
]
