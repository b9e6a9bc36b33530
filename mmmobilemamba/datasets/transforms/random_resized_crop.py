"""Random resized crop that also draws its interpolation."""

from __future__ import annotations

import numpy as np
from mmcv.transforms.utils import cache_randomness
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets.transforms import RandomResizedCrop

INTERPOLATIONS = ('bilinear', 'bicubic')


@TRANSFORMS.register_module()
class RandomResizedCropAndInterpolation(RandomResizedCrop):
    """mmpretrain's RandomResizedCrop, bilinear for one image and bicubic for another.

    Either has a chance of one half, as with ``interpolation='random'`` of timm's transform of this name
    (https://github.com/huggingface/pytorch-image-models), which the paper's recipe uses. Images are
    resized by Pillow, so with antialiasing.

    Args:
        scale (int | Sequence[int]): Height and width of the output in pixels; one number for a square.
        crop_ratio_range (tuple[float, float]): Share of the image's area to crop. Defaults to (0.08, 1).
        aspect_ratio_range (tuple[float, float]): Width over height of the crop. Defaults to (3/4, 4/3).
        max_attempts (int): Draws before the crop is taken from the centre. Defaults to 10.
    """

    def __init__(
        self, scale, crop_ratio_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3), max_attempts=10
    ):
        super().__init__(
            scale, crop_ratio_range, aspect_ratio_range, max_attempts, INTERPOLATIONS[0], backend='pillow'
        )

    @cache_randomness
    def rand_interpolation(self) -> str:
        """One of ``INTERPOLATIONS``."""
        return INTERPOLATIONS[np.random.randint(len(INTERPOLATIONS))]

    def transform(self, results: dict) -> dict:
        """``img`` (H, W, C) uint8 -> (height, width, C) uint8; sets ``img_shape`` too."""
        self.interpolation = self.rand_interpolation()
        return super().transform(results)
