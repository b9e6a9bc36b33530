from .backbones import MobileMamba
from .match_widths import match_widths

__all__ = ['MobileMamba', 'match_widths']
