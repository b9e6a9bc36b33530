from .random_resized_crop import RandomResizedCropAndInterpolation

__all__ = ['RandomResizedCropAndInterpolation']
