from .selective_scan import available_backends, select_backend, selective_scan

__all__ = ['available_backends', 'select_backend', 'selective_scan']
