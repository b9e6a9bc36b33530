"""Transforms for mmpretrain; ``mmmobilemamba.mmpretrain`` imports this module."""

from .transforms import RandomResizedCropAndInterpolation

__all__ = ['RandomResizedCropAndInterpolation']
