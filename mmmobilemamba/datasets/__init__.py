"""Transforms for mmpretrain; ``mmmobilemamba.mmpretrain`` imports this module."""

from .transforms import PillowLoadImageFromFile, RandomResizedCropAndInterpolation

__all__ = ['PillowLoadImageFromFile', 'RandomResizedCropAndInterpolation']
