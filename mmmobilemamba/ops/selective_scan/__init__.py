from .interface import (
    BACKENDS,
    WITH_CPP,
    Choice,
    available_backends,
    check_backend,
    select_backend,
    selective_scan,
    uses_triton,
)

__all__ = [
    'BACKENDS',
    'WITH_CPP',
    'Choice',
    'available_backends',
    'check_backend',
    'select_backend',
    'selective_scan',
    'uses_triton',
]
