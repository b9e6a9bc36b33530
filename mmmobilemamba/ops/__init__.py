from .backends import BACKENDS, OPERATIONS, Choice, available_backends, check_backend, select_backend
from .conv import conv2d, depthwise_conv2d
from .export.haar import haar_filter
from .haar import haar_dwt, haar_idwt
from .norm_gate import norm_gate
from .selective_scan import selective_scan

__all__ = [
    'BACKENDS',
    'OPERATIONS',
    'Choice',
    'available_backends',
    'check_backend',
    'conv2d',
    'depthwise_conv2d',
    'haar_dwt',
    'haar_filter',
    'haar_idwt',
    'norm_gate',
    'select_backend',
    'selective_scan',
]
