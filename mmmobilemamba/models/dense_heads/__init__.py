"""Dense heads for mmdet; ``mmmobilemamba.mmdet`` imports this module."""

from .ssdlite_head import SSDLiteHead

__all__ = ['SSDLiteHead']
