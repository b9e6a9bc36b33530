from .loading import PillowLoadImageFromFile
from .random_resized_crop import RandomResizedCropAndInterpolation

__all__ = ['PillowLoadImageFromFile', 'RandomResizedCropAndInterpolation']
