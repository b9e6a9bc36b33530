"""Dense heads for mmdet; a config that uses one imports this module through ``custom_imports``."""

from .ssdlite_head import SSDLiteHead

__all__ = ['SSDLiteHead']
