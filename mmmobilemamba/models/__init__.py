from .backbones import MobileMamba
from .compile import compile_regions
from .deploy import deploy
from .graph_training import graph_training
from .layers import set_backend
from .match_widths import match_widths
from .plain_classifier import MobileMambaClassifier
from .prepare import prepare_for_inference
from .prepare_for_cpu import prepare_for_cpu
from .prepare_for_gpu import prepare_for_gpu

__all__ = [
    'MobileMamba',
    'MobileMambaClassifier',
    'compile_regions',
    'deploy',
    'graph_training',
    'match_widths',
    'prepare_for_cpu',
    'prepare_for_gpu',
    'prepare_for_inference',
    'set_backend',
]
