"""Transforms that require mmpretrain; imported by ``mmmobilemamba.mmpretrain``."""

from .transforms import PillowLoadImageFromFile, RandomResizedCropAndInterpolation

__all__ = ['PillowLoadImageFromFile', 'RandomResizedCropAndInterpolation']
