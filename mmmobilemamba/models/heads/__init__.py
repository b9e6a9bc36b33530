"""Heads for mmpretrain; ``mmmobilemamba.mmpretrain`` imports this module."""

from .mobilemamba_head import MobileMambaClsHead

__all__ = ['MobileMambaClsHead']
