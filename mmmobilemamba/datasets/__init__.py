"""Transforms for mmpretrain; a config that uses one imports this module through ``custom_imports``."""

from .transforms import RandomResizedCropAndInterpolation

__all__ = ['RandomResizedCropAndInterpolation']
