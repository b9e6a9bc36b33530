"""Random resized crop with a random interpolation."""

from __future__ import annotations

import numpy as np
from mmcv.transforms.utils import cache_randomness
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets.transforms import RandomResizedCrop

INTERPOLATIONS = ('bilinear', 'bicubic')


@TRANSFORMS.register_module()
class RandomResizedCropAndInterpolation(RandomResizedCrop):
    """mmpretrain's RandomResizedCrop with bilinear or bicubic interpolation, chosen at random for each image.

    Both have a probability of 0.5, as in timm's transform of the same name with ``interpolation='random'``
    (https://github.com/huggingface/pytorch-image-models), which the paper's recipe uses. Images are resized
    by Pillow, with antialiasing.

    Args:
        scale (int | Sequence[int]): Height and width of the output in px; a single number for a square.
        crop_ratio_range (tuple[float, float]): Range of the crop's area relative to the image. Defaults to
            (0.08, 1).
        aspect_ratio_range (tuple[float, float]): Range of the crop's width / height. Defaults to (3/4, 4/3).
        max_attempts (int): Number of attempts before falling back to a centre crop. Defaults to 10.
    """

    def __init__(
        self, scale, crop_ratio_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3), max_attempts=10
    ):
        super().__init__(
            scale, crop_ratio_range, aspect_ratio_range, max_attempts, INTERPOLATIONS[0], backend='pillow'
        )

    @cache_randomness
    def rand_interpolation(self) -> str:
        """Draw one of ``INTERPOLATIONS`` (str)."""
        return INTERPOLATIONS[np.random.randint(len(INTERPOLATIONS))]

    def transform(self, results: dict) -> dict:
        """Crop and resize ``img``, uint8 (H, W, C) -> (height, width, C); updates ``img_shape``."""
        self.interpolation = self.rand_interpolation()
        return super().transform(results)
