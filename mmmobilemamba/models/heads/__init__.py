"""Heads for mmpretrain; a config that uses one imports this module through ``custom_imports``."""

from .mobilemamba_head import MobileMambaClsHead

__all__ = ['MobileMambaClsHead']
