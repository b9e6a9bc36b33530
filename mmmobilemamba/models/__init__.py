from .backbones import MobileMamba
from .match_widths import match_widths
from .prepare_for_cpu import prepare_for_cpu

__all__ = ['MobileMamba', 'match_widths', 'prepare_for_cpu']
