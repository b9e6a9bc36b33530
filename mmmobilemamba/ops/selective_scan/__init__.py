"""Bidirectional selective scan with state size 1: one function, several backends."""

from .interface import available_backends, select_backend, selective_scan

__all__ = ['available_backends', 'select_backend', 'selective_scan']
