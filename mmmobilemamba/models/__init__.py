from .backbones import MobileMamba

__all__ = ['MobileMamba']
