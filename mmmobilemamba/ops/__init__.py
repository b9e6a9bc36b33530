from .selective_scan import (
    BACKENDS,
    Choice,
    available_backends,
    check_backend,
    select_backend,
    selective_scan,
)

__all__ = ['BACKENDS', 'Choice', 'available_backends', 'check_backend', 'select_backend', 'selective_scan']
